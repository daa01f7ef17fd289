// softmax(q k^T / sqrt(head_dim)) v, a workgroup for one row of one head. Positions come in blocks of 64; sums over
// earlier blocks are scaled when a later one has a larger score.

struct Attention {
    rows: u32,
    // Values a row: of the queries, of keys and values, of y.
    q_stride: u32,
    kv_stride: u32,
    y_stride: u32,
    // Columns at which keys and values of head 0 begin.
    first_key: u32,
    first_value: u32,
    head_dim: u32,
    // Query heads that share keys and values.
    heads_per_kv: u32,
    heads: u32,
    // Positions before the first row, and those that every row sees; 0 where a row sees those up to its own.
    past: u32,
    visible: u32,
}

@group(0) @binding(0) var<uniform> params: Attention;
@group(0) @binding(1) var<storage, read> queries: array<x_t>;
@group(0) @binding(2) var<storage, read> kv: array<k_t>;
@group(0) @binding(3) var<storage, read_write> y: array<y_t>;

const MOST_DIM = 256u;
var<workgroup> query: array<f32, 256>;
var<workgroup> scores: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let row = group.x;
    let head = group.y;
    let dim = params.head_dim;
    let scale = 1.0 / sqrt(f32(dim));
    for (var d = index; d < dim; d += 64u) {
        query[d] = f32(queries[row * params.q_stride + head * dim + d]) * scale;
    }
    let kv_head = head / params.heads_per_kv * dim;
    let visible = select(params.visible, params.past + row + 1u, params.visible == 0u);
    var sums: array<f32, 4>;
    var most = -3.0e38;
    var total = 0.0;
    workgroupBarrier();
    for (var start = 0u; start < visible; start += 64u) {
        let count = min(64u, visible - start);
        var score = -3.0e38;
        if index < count {
            let at = (start + index) * params.kv_stride + params.first_key + kv_head;
            score = 0.0;
            for (var d = 0u; d < dim; d++) {
                score += query[d] * f32(kv[at + d]);
            }
        }
        // Behind the barriers in here nobody reads the last block's scores any more, and then all see this one's.
        let block_most = max(most, max_of_all(score, index));
        score = select(0.0, exp(score - block_most), index < count);
        scores[index] = score;
        let factor = exp(most - block_most);
        most = block_most;
        total = total * factor + sum_of_all(score, index);
        for (var i = 0u; i < 4u; i++) {
            let d = index + 64u * i;
            if d >= dim {
                break;
            }
            var sum = sums[i] * factor;
            for (var j = 0u; j < count; j++) {
                let at = (start + j) * params.kv_stride + params.first_value + kv_head;
                sum += scores[j] * f32(kv[at + d]);
            }
            sums[i] = sum;
        }
    }
    let first = row * params.y_stride;
    for (var i = 0u; i < 4u; i++) {
        let d = index + 64u * i;
        if d < dim {
            y[first + head * dim + d] = to_y_scalar(sums[i] / total);
        }
    }
    // Columns that only fill the row up to a multiple of four.
    let used = params.heads * dim;
    if head == 0u && index < params.y_stride - used {
        y[first + used + index] = y_t(0.0);
    }
}
