// Four values of a row of the weight, kept in f32.
@group(0) @binding(2) var<storage, read> codes: array<vec4<f32>>;

fn weight(row: u32, k4: u32) -> vec4<f32> {
    return codes[row * params.w_stride + k4];
}
