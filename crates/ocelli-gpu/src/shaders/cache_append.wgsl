// Keys and values of the new rows to the end of a layer's cache.

struct Append {
    rows: u32,
    // Values a row of the cache, and of the queries, keys and values.
    cols: u32,
    x_stride: u32,
    // Column at which the keys begin.
    first_key: u32,
    past: u32,
}

@group(0) @binding(0) var<uniform> params: Append;
@group(0) @binding(1) var<storage, read> x: array<x_t>;
@group(0) @binding(2) var<storage, read_write> cache: array<k_t>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.cols || id.y >= params.rows {
        return;
    }
    let value = x[id.y * params.x_stride + params.first_key + id.x];
    cache[(params.past + id.y) * params.cols + id.x] = k_t(value);
}
