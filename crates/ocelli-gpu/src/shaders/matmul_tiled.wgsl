// y = x W^T in tiles of 64 rows and 64 columns, 16 deep, that a workgroup loads together.

// Five vectors a row of a tile, of which four are used: neighbours then lie in different banks.
const PITCH = 5u;
var<workgroup> x_tile: array<vec4<f32>, 320>;
var<workgroup> w_tile: array<vec4<f32>, 320>;

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let first_n = 64u * group.x;
    let first_row = 64u * group.y;
    let tile_row = index / 4u;
    let tile_k4 = index % 4u;
    var sums: array<vec4<f32>, 4>;
    for (var k4 = 0u; k4 < params.k4; k4 += 4u) {
        let inside = k4 + tile_k4 < params.k4;
        var x_value = vec4(0.0);
        var w_value = vec4(0.0);
        if inside && first_row + tile_row < params.rows {
            x_value = x_at(first_row + tile_row, k4 + tile_k4);
        }
        if inside && first_n + tile_row < 4u * params.n4 {
            w_value = weight(first_n + tile_row, k4 + tile_k4);
        }
        x_tile[tile_row * PITCH + tile_k4] = x_value;
        w_tile[tile_row * PITCH + tile_k4] = w_value;
        workgroupBarrier();
        for (var k = 0u; k < 4u; k++) {
            let w0 = w_tile[(4u * local.x) * PITCH + k];
            let w1 = w_tile[(4u * local.x + 1u) * PITCH + k];
            let w2 = w_tile[(4u * local.x + 2u) * PITCH + k];
            let w3 = w_tile[(4u * local.x + 3u) * PITCH + k];
            for (var i = 0u; i < 4u; i++) {
                let v = x_tile[(4u * local.y + i) * PITCH + k];
                sums[i] += vec4(dot(v, w0), dot(v, w1), dot(v, w2), dot(v, w3));
            }
        }
        workgroupBarrier();
    }
    let n4 = first_n / 4u + local.x;
    for (var i = 0u; i < 4u; i++) {
        let row = first_row + 4u * local.y + i;
        if n4 < params.n4 && row < params.rows {
            finish(row, n4, sums[i]);
        }
    }
}
