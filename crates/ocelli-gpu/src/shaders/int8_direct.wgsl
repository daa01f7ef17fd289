// y = x W^T by dot products of four 8-bit codes, four rows and four columns an invocation, straight from memory.

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let n4 = id.x;
    let row = 4u * id.y;
    if n4 >= params.n4 || row >= params.rows {
        return;
    }
    let last = params.rows - 1u;
    var sums: array<vec4<i32>, 4>;
    for (var k4 = 0u; k4 < params.k4; k4++) {
        let w0 = weight_codes(4u * n4, k4);
        let w1 = weight_codes(4u * n4 + 1u, k4);
        let w2 = weight_codes(4u * n4 + 2u, k4);
        let w3 = weight_codes(4u * n4 + 3u, k4);
        for (var i = 0u; i < 4u; i++) {
            let v = x_codes(min(row + i, last), k4);
            sums[i] +=
                vec4(dot4I8Packed(v, w0), dot4I8Packed(v, w1), dot4I8Packed(v, w2), dot4I8Packed(v, w3));
        }
    }
    for (var i = 0u; i < 4u; i++) {
        if row + i < params.rows {
            finish_sums(row + i, n4, sums[i]);
        }
    }
}
