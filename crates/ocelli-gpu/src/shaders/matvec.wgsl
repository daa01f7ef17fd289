// y = x W^T for few rows: a workgroup shares the depth of four columns of one row.

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let n4 = group.x;
    let row = group.y;
    var sum = vec4(0.0);
    for (var k4 = index; k4 < params.k4; k4 += 64u) {
        let v = x_at(row, k4);
        let first = 4u * n4;
        let w0 = weight(first, k4);
        let w1 = weight(first + 1u, k4);
        let w2 = weight(first + 2u, k4);
        let w3 = weight(first + 3u, k4);
        sum += vec4(dot(v, w0), dot(v, w1), dot(v, w2), dot(v, w3));
    }
    let whole = sum_in_first(sum, index);
    if index == 0u {
        finish(row, n4, whole);
    }
}
