// Four values of a row of the weight, kept in 4-bit codes; 32 values share an f16 scale.
@group(0) @binding(2) var<storage, read> codes: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;

fn weight(row: u32, k4: u32) -> vec4<f32> {
    let at = row * params.w_stride + k4;
    let word = codes[at / 2u] >> (16u * (at & 1u));
    let code = vec4<i32>(vec4(word) << vec4(28u, 24u, 20u, 16u)) >> vec4(28u);
    // Rows of scales are whole words, two scales each.
    let scale = scales[row * ((params.w_stride / 8u + 1u) / 2u) + k4 / 16u];
    return vec4<f32>(code) * half_of(scale >> (16u * ((k4 / 8u) & 1u)));
}
