// Rows of x and of the weight as 8-bit codes, four a word. A row of x begins with its f32 scale, as the quantizing shader
// writes it; those of the weight lie apart.
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> codes: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;

fn x_codes(row: u32, k4: u32) -> u32 {
    return x[(params.x_row + row) * params.x_stride + 1u + k4];
}

fn weight_codes(row: u32, k4: u32) -> u32 {
    return codes[row * params.w_stride + k4];
}

// Sums of integers are exact; only here they become numbers of one row's and four columns' scales.
fn finish_sums(row: u32, n4: u32, sums: vec4<i32>) {
    let first = 4u * n4;
    let w = vec4(scales[first], scales[first + 1u], scales[first + 2u], scales[first + 3u]);
    let scale = bitcast<f32>(x[(params.x_row + row) * params.x_stride]);
    finish(row, n4, vec4<f32>(sums) * (scale * w));
}
