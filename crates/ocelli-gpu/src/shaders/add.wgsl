// y = a + b, where a may begin some rows later: those rows are b alone.

struct Add {
    rows: u32,
    cols4: u32,
    skip: u32,
}

@group(0) @binding(0) var<uniform> params: Add;
@group(0) @binding(1) var<storage, read> a: array<vec4<x_t>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<r_t>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<y_t>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.z * 65535u + id.y;
    if id.x >= params.cols4 || row >= params.rows {
        return;
    }
    let at = row * params.cols4 + id.x;
    var v = vec4<f32>(b[at]);
    if row >= params.skip {
        v += vec4<f32>(a[at - params.skip * params.cols4]);
    }
    y[at] = to_y(v);
}
