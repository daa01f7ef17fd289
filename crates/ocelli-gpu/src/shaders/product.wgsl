// What all matrix products share: rows of x times rows of the weight, and what follows the sum.

struct Product {
    // Rows of x and y.
    rows: u32,
    // Row of x and of y that is taken as row 0.
    x_row: u32,
    y_row: u32,
    // Vectors of four a row: of x, those of them that count, of the weight, of y and the residual.
    x_stride: u32,
    k4: u32,
    w_stride: u32,
    y_stride: u32,
    // Vectors of four outputs in this part of the weight, and the first one's column.
    n4: u32,
    first_n4: u32,
}

@group(0) @binding(0) var<uniform> params: Product;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> layer_scale: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> residual: array<vec4<r_t>>;
@group(0) @binding(7) var<storage, read_write> y: array<vec4<y_t>>;

fn finish(row: u32, n4: u32, sum: vec4<f32>) {
    let column = params.first_n4 + n4;
    var v = sum;
    if BIAS {
        v += bias[column];
    }
    v = activate(v);
    if SCALE {
        v *= layer_scale[column];
    }
    let at = (params.y_row + row) * params.y_stride + column;
    if RESIDUAL {
        v += vec4<f32>(residual[at]);
    }
    y[at] = to_y(v);
}
