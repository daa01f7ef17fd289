// Rotate the halves of each head by the row's angles, in place.

struct Rope {
    rows: u32,
    heads: u32,
    half_dim: u32,
    // Values a row.
    stride: u32,
}

@group(0) @binding(0) var<uniform> params: Rope;
// Cosine and sine: [rows][half_dim]
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<x_t>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.heads * params.half_dim || id.y >= params.rows {
        return;
    }
    let i = id.x % params.half_dim;
    let head = id.x / params.half_dim;
    let at = id.y * params.stride + 2u * head * params.half_dim + i;
    let turn = angles[id.y * params.half_dim + i];
    let a = f32(x[at]);
    let b = f32(x[at + params.half_dim]);
    x[at] = to_x_scalar(a * turn.x - b * turn.y);
    x[at + params.half_dim] = to_x_scalar(b * turn.x + a * turn.y);
}
