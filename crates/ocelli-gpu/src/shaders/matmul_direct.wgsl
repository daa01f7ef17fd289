// y = x W^T, four rows and four columns an invocation, straight from memory: for devices whose workgroup memory is
// no quicker than the rest, such as those that software emulates.

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let n4 = id.x;
    let row = 4u * id.y;
    if n4 >= params.n4 || row >= params.rows {
        return;
    }
    let last = params.rows - 1u;
    var sums: array<vec4<f32>, 4>;
    for (var k4 = 0u; k4 < params.k4; k4++) {
        let w0 = weight(4u * n4, k4);
        let w1 = weight(4u * n4 + 1u, k4);
        let w2 = weight(4u * n4 + 2u, k4);
        let w3 = weight(4u * n4 + 3u, k4);
        for (var i = 0u; i < 4u; i++) {
            let v = x_at(min(row + i, last), k4);
            sums[i] += vec4(dot(v, w0), dot(v, w1), dot(v, w2), dot(v, w3));
        }
    }
    for (var i = 0u; i < 4u; i++) {
        if row + i < params.rows {
            finish(row + i, n4, sums[i]);
        }
    }
}
