// Sums and maxima over a workgroup of 64: within each subgroup, whatever their size, then over what those found, which
// every subgroup does for itself.

var<workgroup> values_of_all: array<f32, 64>;
var<workgroup> partial: array<vec4<f32>, 64>;

fn sum_of_all(value: f32, index: u32) -> f32 {
    let lane = subgroupExclusiveAdd(1u);
    let lanes = subgroupAdd(1u);
    // One invocation stands for its subgroup.
    let sum = subgroupAdd(value);
    values_of_all[index] = select(0.0, sum, lane == 0u);
    workgroupBarrier();
    var mine = 0.0;
    for (var i = lane; i < 64u; i += lanes) {
        mine += values_of_all[i];
    }
    let all = subgroupAdd(mine);
    workgroupBarrier();
    return all;
}

fn max_of_all(value: f32, index: u32) -> f32 {
    let lane = subgroupExclusiveAdd(1u);
    let lanes = subgroupAdd(1u);
    values_of_all[index] = subgroupMax(value);
    workgroupBarrier();
    var mine = value;
    for (var i = lane; i < 64u; i += lanes) {
        mine = max(mine, values_of_all[i]);
    }
    let all = subgroupMax(mine);
    workgroupBarrier();
    return all;
}

// The sum, which only invocation 0 is sure to get.
fn sum_in_first(value: vec4<f32>, index: u32) -> vec4<f32> {
    let lane = subgroupExclusiveAdd(1u);
    let lanes = subgroupAdd(1u);
    let sum = subgroupAdd(value);
    partial[index] = select(vec4(0.0), sum, lane == 0u);
    workgroupBarrier();
    var mine = vec4(0.0);
    for (var i = lane; i < 64u; i += lanes) {
        mine += partial[i];
    }
    return subgroupAdd(mine);
}
