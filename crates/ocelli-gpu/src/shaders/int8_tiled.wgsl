// y = x W^T by dot products of four 8-bit codes, in tiles of 64 rows and 64 columns, 16 words deep, that a workgroup
// loads together.

// Seventeen words a row of a tile, of which sixteen are used: neighbours then lie in different banks.
const PITCH = 17u;
var<workgroup> x_tile: array<u32, 1088>;
var<workgroup> w_tile: array<u32, 1088>;

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let first_n = 64u * group.x;
    let first_row = 64u * group.y;
    let tile_k4 = index % 16u;
    var sums: array<vec4<i32>, 4>;
    for (var k4 = 0u; k4 < params.k4; k4 += 16u) {
        let inside = k4 + tile_k4 < params.k4;
        for (var tile_row = index / 16u; tile_row < 64u; tile_row += 16u) {
            var x_value = 0u;
            var w_value = 0u;
            if inside && first_row + tile_row < params.rows {
                x_value = x_codes(first_row + tile_row, k4 + tile_k4);
            }
            if inside && first_n + tile_row < 4u * params.n4 {
                w_value = weight_codes(first_n + tile_row, k4 + tile_k4);
            }
            x_tile[tile_row * PITCH + tile_k4] = x_value;
            w_tile[tile_row * PITCH + tile_k4] = w_value;
        }
        workgroupBarrier();
        for (var k = 0u; k < 16u; k++) {
            let w0 = w_tile[(4u * local.x) * PITCH + k];
            let w1 = w_tile[(4u * local.x + 1u) * PITCH + k];
            let w2 = w_tile[(4u * local.x + 2u) * PITCH + k];
            let w3 = w_tile[(4u * local.x + 3u) * PITCH + k];
            for (var i = 0u; i < 4u; i++) {
                let v = x_tile[(4u * local.y + i) * PITCH + k];
                sums[i] +=
                    vec4(dot4I8Packed(v, w0), dot4I8Packed(v, w1), dot4I8Packed(v, w2), dot4I8Packed(v, w3));
            }
        }
        workgroupBarrier();
    }
    let n4 = first_n / 4u + local.x;
    for (var i = 0u; i < 4u; i++) {
        let row = first_row + 4u * local.y + i;
        if n4 < params.n4 && row < params.rows {
            finish_sums(row, n4, sums[i]);
        }
    }
}
