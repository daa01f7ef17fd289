//! Shaders put together from their files, and the pipelines made of them, once a device.

use std::fmt::Write;
use std::sync::Arc;

use crate::device::{GpuDevice, lock};

/// Type in which a device keeps activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    F32,
    F16,
}

impl Scalar {
    pub(crate) fn size(self) -> usize {
        match self {
            Scalar::F32 => 4,
            Scalar::F16 => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Scalar::F32 => "f32",
            Scalar::F16 => "f16",
        }
    }
}

/// The names and constants that stand before the files of a shader.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prelude {
    text: String,
    f16: bool,
    subgroups: bool,
}

impl Prelude {
    /// `x_t`, `to_x(vec4<f32>)` and `to_x_scalar(f32)` for a binding that holds values of this type. Values beyond
    /// those of f16 become its largest.
    pub(crate) fn scalar(mut self, binding: &str, scalar: Scalar) -> Self {
        let (name, most) = (scalar.name(), "65504.0");
        let (vector, value) = match scalar {
            Scalar::F32 => ("v".to_owned(), "v".to_owned()),
            Scalar::F16 => {
                self.f16 = true;
                (
                    format!("vec4<f16>(clamp(v, vec4(-{most}), vec4({most})))"),
                    format!("f16(clamp(v, -{most}, {most}))"),
                )
            }
        };
        let _ = writeln!(self.text, "alias {binding}_t = {name};");
        let _ = writeln!(self.text, "fn to_{binding}(v: vec4<f32>) -> vec4<{name}> {{ return {vector}; }}");
        let _ = writeln!(self.text, "fn to_{binding}_scalar(v: f32) -> {name} {{ return {value}; }}");
        self
    }

    pub(crate) fn flag(mut self, name: &str, value: bool) -> Self {
        let _ = writeln!(self.text, "const {name} = {value};");
        self
    }

    pub(crate) fn number(mut self, name: &str, value: u32) -> Self {
        let _ = writeln!(self.text, "const {name} = {value}u;");
        self
    }

    /// `sum_of_all`, `max_of_all` and `sum_in_first` over a workgroup of 64.
    pub(crate) fn reductions(mut self, subgroups: bool) -> Self {
        self.subgroups = subgroups;
        self.text += if subgroups { REDUCE_SUBGROUPS } else { REDUCE_TREE };
        self
    }

    fn source(&self, files: &[&str]) -> String {
        let f16 = if self.f16 { "enable f16;\n" } else { "" };
        // Browsers want it; naga has them without, and refuses the word.
        let subgroups = self.subgroups && cfg!(target_arch = "wasm32");
        let subgroups = if subgroups { "enable subgroups;\n" } else { "" };
        format!("{f16}{subgroups}{}\n{}", self.text, files.join("\n"))
    }
}

/// How a shader uses the buffers of its bindings, those from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A shader ready to run.
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

macro_rules! shaders {
    ($($constant:ident = $file:literal),* $(,)?) => {
        $(pub(crate) const $constant: &str = include_str!(concat!(env!("OUT_DIR"), "/", $file, ".wgsl"));)*
    };
}

shaders! {
    ACTIVATION = "activation", HALF = "half", PRODUCT = "product",
    WEIGHT_F32 = "weight_f32", WEIGHT_BF16 = "weight_bf16", WEIGHT_Q8 = "weight_q8", WEIGHT_Q4 = "weight_q4",
    WEIGHT_INT8 = "weight_int8",
    MATMUL_DIRECT = "matmul_direct", MATMUL_TILED = "matmul_tiled", MATVEC = "matvec", GATE = "gate",
    CONV = "conv", DEPTHWISE = "depthwise", NORM = "norm",
    ATTENTION = "attention", CACHE_APPEND = "cache_append", ROPE = "rope",
    MEAN = "mean", EXCITE = "excite", ADD = "add",
    X_VALUES = "x_values", INT8 = "int8", INT8_DIRECT = "int8_direct", INT8_TILED = "int8_tiled",
    QUANTIZE = "quantize", LARGEST = "largest",
    REDUCE_TREE = "reduce_tree", REDUCE_SUBGROUPS = "reduce_subgroups",
}

impl GpuDevice {
    /// The pipeline of these files with this prelude, made at its first use.
    pub(crate) fn pipeline(
        &self,
        name: &str,
        prelude: &Prelude,
        files: &[&str],
        bindings: &[Access],
    ) -> Arc<Pipeline> {
        let source = prelude.source(files);
        let mut kept = lock(&self.opened().pipelines);
        if let Some(pipeline) = kept.get(&source) {
            return Arc::clone(pipeline);
        }
        let pipeline = Arc::new(self.build(name, &source, bindings));
        kept.insert(source, Arc::clone(&pipeline));
        pipeline
    }

    fn build(&self, name: &str, source: &str, bindings: &[Access]) -> Pipeline {
        let device = &self.opened().device;
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let entry = |binding: usize, ty, has_dynamic_offset| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
            count: None,
        };
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, true)];
        for (at, access) in bindings.iter().enumerate() {
            let read_only = *access == Access::Read;
            entries.push(entry(at + 1, wgpu::BufferBindingType::Storage { read_only }, false));
        }
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(name),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Pipeline { pipeline, layout }
    }
}

/// Every shader in every spelling that the ops ask for, by name: for tests that validate them without a device.
pub fn shader_sources() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for scalar in [Scalar::F32, Scalar::F16] {
        let types = |names: &[&str]| {
            names.iter().fold(Prelude::default(), |prelude, name| prelude.scalar(name, scalar))
        };
        let mut add = |name: &str, prelude: Prelude, files: &[&str]| {
            all.push((format!("{name} {}", scalar.name()), prelude.source(files)));
        };
        let product = || {
            let flags = types(&["x", "y", "r"]).number("ACTIVATION", 1);
            flags.flag("BIAS", true).flag("SCALE", true).flag("RESIDUAL", true)
        };
        for (weight, file) in [
            ("f32", WEIGHT_F32),
            ("bf16", WEIGHT_BF16),
            ("q8", WEIGHT_Q8),
            ("q4", WEIGHT_Q4),
            ("int8", WEIGHT_INT8),
        ] {
            let files = |main| [ACTIVATION, HALF, PRODUCT, X_VALUES, file, main];
            for (name, main) in [("matmul_direct", MATMUL_DIRECT), ("matmul_tiled", MATMUL_TILED)] {
                add(&format!("{name} {weight}"), product(), &files(main));
            }
            for subgroups in [false, true] {
                let name = format!("matvec {weight} subgroups {subgroups}");
                add(&name, product().reductions(subgroups), &files(MATVEC));
            }
        }
        for (name, main) in [("int8_direct", INT8_DIRECT), ("int8_tiled", INT8_TILED)] {
            add(name, product(), &[ACTIVATION, PRODUCT, INT8, main]);
        }
        add("gate", types(&["x", "y"]).number("ACTIVATION", 2), &[ACTIVATION, GATE]);
        let conv = || types(&["x", "y"]).number("ACTIVATION", 3).flag("BIAS", true);
        add("conv", conv(), &[ACTIVATION, CONV]);
        add("depthwise", conv().number("MULTIPLIER", 2), &[ACTIVATION, DEPTHWISE]);
        for subgroups in [false, true] {
            let mut add = |name: &str, prelude: Prelude, file| {
                add(&format!("{name} subgroups {subgroups}"), prelude.reductions(subgroups), &[file]);
            };
            add("norm", types(&["x", "y"]).flag("LAYER", true), NORM);
            add("attention", types(&["x", "k", "y"]), ATTENTION);
            add("mean", types(&["x", "y"]), MEAN);
            add("quantize", types(&["x"]), QUANTIZE);
        }
        add("cache_append", types(&["x", "k"]), &[CACHE_APPEND]);
        add("rope", types(&["x"]), &[ROPE]);
        add("excite", types(&["x", "y"]).number("ACTIVATION", 4), &[ACTIVATION, EXCITE]);
        add("add", types(&["x", "r", "y"]), &[ADD]);
        for found in [false, true] {
            add(&format!("largest {found}"), types(&["x"]).flag("FOUND", found), &[LARGEST]);
        }
    }
    all
}
