// Four values of a row of the weight, kept in bf16: the upper halves of their f32.
@group(0) @binding(2) var<storage, read> codes: array<vec2<u32>>;

fn weight(row: u32, k4: u32) -> vec4<f32> {
    let pairs = codes[row * params.w_stride + k4];
    let low = bitcast<vec2<f32>>(pairs << vec2(16u));
    let high = bitcast<vec2<f32>>(pairs & vec2(0xffff0000u));
    return vec4(low.x, high.x, low.y, high.y);
}
