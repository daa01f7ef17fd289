// y = silu(gate) * up, where each row of x is the gate and then the up half.

struct Gate {
    rows: u32,
    // Vectors of four a row of y: half of those of x.
    n4: u32,
    // Row of y that is taken as row 0.
    y_row: u32,
}

@group(0) @binding(0) var<uniform> params: Gate;
@group(0) @binding(1) var<storage, read> x: array<vec4<x_t>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<y_t>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    let row = id.y;
    if column >= params.n4 || row >= params.rows {
        return;
    }
    let at = 2u * row * params.n4 + column;
    let value = activate(vec4<f32>(x[at])) * vec4<f32>(x[at + params.n4]);
    y[(params.y_row + row) * params.n4 + column] = to_y(value);
}
