// Layer norm (LAYER) or RMS norm over each row, a workgroup a row.

struct Norm {
    rows: u32,
    cols: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: Norm;
@group(0) @binding(1) var<storage, read> x: array<vec4<x_t>>;
@group(0) @binding(2) var<storage, read> norm_weight: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> norm_bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<y_t>>;

// Which of the four columns are columns of the tensor.
fn mask(column: u32) -> vec4<f32> {
    return select(vec4(0.0), vec4(1.0), vec4(4u * column) + vec4(0u, 1u, 2u, 3u) < vec4(params.cols));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let row = group.y * 65535u + group.x;
    if row >= params.rows {
        return;
    }
    let cols4 = (params.cols + 3u) / 4u;
    let first = row * cols4;
    var mean = 0.0;
    if LAYER {
        var sum = 0.0;
        for (var c = index; c < cols4; c += 64u) {
            sum += dot(vec4<f32>(x[first + c]), mask(c));
        }
        mean = sum_of_all(sum, index) / f32(params.cols);
    }
    var squares = 0.0;
    for (var c = index; c < cols4; c += 64u) {
        let v = (vec4<f32>(x[first + c]) - mean) * mask(c);
        squares += dot(v, v);
    }
    let factor = 1.0 / sqrt(sum_of_all(squares, index) / f32(params.cols) + params.eps);
    for (var c = index; c < cols4; c += 64u) {
        var v = (vec4<f32>(x[first + c]) - mean) * factor * norm_weight[c];
        if LAYER {
            v += norm_bias[c];
        }
        y[first + c] = to_y(v);
    }
}
