// 8-bit codes of rows, nearest and ties to even, a workgroup a row: the row's scale, its largest magnitude over 127, then
// the codes, four a word.

struct Quantize {
    rows: u32,
    // Row of x that is taken as row 0.
    x_row: u32,
    // Vectors of four a row.
    cols4: u32,
}

@group(0) @binding(0) var<uniform> params: Quantize;
@group(0) @binding(1) var<storage, read> x: array<vec4<x_t>>;
@group(0) @binding(2) var<storage, read_write> codes: array<u32>;

// A row that is smaller than any use is a row of zeros: its inverse would be no number.
const LEAST = 1e-30;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let row = group.y * 65535u + group.x;
    if row >= params.rows {
        return;
    }
    let x_first = (params.x_row + row) * params.cols4;
    let y_first = row * (params.cols4 + 1u);
    var most = 0.0;
    for (var c = index; c < params.cols4; c += 64u) {
        let v = abs(vec4<f32>(x[x_first + c]));
        most = max(most, max(max(v.x, v.y), max(v.z, v.w)));
    }
    most = max_of_all(most, index);
    let scale = select(most / 127.0, 0.0, most < LEAST);
    let inverse = select(127.0 / most, 0.0, most < LEAST);
    if index == 0u {
        codes[y_first] = bitcast<u32>(scale);
    }
    for (var c = index; c < params.cols4; c += 64u) {
        codes[y_first + 1u + c] = pack4xI8(vec4<i32>(round(vec4<f32>(x[x_first + c]) * inverse)));
    }
}
