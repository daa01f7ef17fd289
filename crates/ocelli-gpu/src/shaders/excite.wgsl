// y = activation(x * sigmoid(gate)), the gate the same for all rows.

struct Excite {
    rows: u32,
    cols4: u32,
}

@group(0) @binding(0) var<uniform> params: Excite;
@group(0) @binding(1) var<storage, read> x: array<vec4<x_t>>;
@group(0) @binding(2) var<storage, read> gate: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<y_t>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.z * 65535u + id.y;
    if id.x >= params.cols4 || row >= params.rows {
        return;
    }
    let at = row * params.cols4 + id.x;
    y[at] = to_y(activate(vec4<f32>(x[at]) * sigmoid(gate[id.x])));
}
