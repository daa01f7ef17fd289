// The mean of all rows, a workgroup for four columns.

struct Mean {
    rows: u32,
    cols4: u32,
}

@group(0) @binding(0) var<uniform> params: Mean;
@group(0) @binding(1) var<storage, read> x: array<vec4<x_t>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<y_t>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    var sum = vec4(0.0);
    for (var row = index; row < params.rows; row += 64u) {
        sum += vec4<f32>(x[row * params.cols4 + group.x]);
    }
    let whole = sum_in_first(sum, index);
    if index == 0u {
        y[group.x] = to_y(whole / f32(params.rows));
    }
}
