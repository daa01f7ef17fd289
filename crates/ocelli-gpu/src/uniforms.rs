//! What the host tells a shader about one dispatch: structs that mirror those of the `.wgsl` files.

use bytemuck::{Pod, Zeroable};

/// Bytes between the uniforms of two dispatches: the largest alignment that WebGPU may ask for.
pub(crate) const UNIFORM_STRIDE: usize = 256;

macro_rules! uniforms {
    ($($name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {
        $(
            #[repr(C)]
            #[derive(Debug, Clone, Copy, Pod, Zeroable)]
            pub(crate) struct $name {
                $(pub(crate) $field: $kind),*
            }
        )*

        /// Name of each struct with the names and byte offsets of its fields: shaders must agree.
        pub fn uniform_layouts() -> Vec<(&'static str, Vec<(&'static str, usize)>)> {
            vec![$((
                stringify!($name),
                vec![$((stringify!($field), std::mem::offset_of!($name, $field))),*],
            )),*]
        }
    };
}

uniforms! {
    Product {
        rows: u32, x_row: u32, y_row: u32, x_stride: u32, k4: u32, w_stride: u32, y_stride: u32, n4: u32,
        first_n4: u32,
    }
    Gate { rows: u32, n4: u32, y_row: u32 }
    Conv {
        height: u32, width: u32, out_height: u32, out_width: u32, in4: u32, out4: u32, kernel: u32, stride: u32,
        padding: u32,
    }
    Depthwise {
        height: u32, width: u32, out_height: u32, out_width: u32, in4: u32, out4: u32, kernel_height: u32,
        kernel_width: u32, stride: u32,
    }
    Norm { rows: u32, cols: u32, eps: f32 }
    Attention {
        rows: u32, q_stride: u32, kv_stride: u32, y_stride: u32, first_key: u32, first_value: u32, head_dim: u32,
        heads_per_kv: u32, heads: u32, past: u32, visible: u32,
    }
    Append { rows: u32, cols: u32, x_stride: u32, first_key: u32, past: u32 }
    Rope { rows: u32, heads: u32, half_dim: u32, stride: u32 }
    Mean { rows: u32, cols4: u32 }
    Excite { rows: u32, cols4: u32 }
    Add { rows: u32, cols4: u32, skip: u32 }
    Quantize { rows: u32, x_row: u32, cols4: u32 }
    Largest { count: u32, step: u32 }
}
