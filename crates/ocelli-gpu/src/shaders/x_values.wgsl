// Four values of a row of x.
@group(0) @binding(1) var<storage, read> x: array<vec4<x_t>>;

fn x_at(row: u32, k4: u32) -> vec4<f32> {
    return vec4<f32>(x[(params.x_row + row) * params.x_stride + k4]);
}
