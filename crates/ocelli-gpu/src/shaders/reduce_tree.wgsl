// Sums and maxima over a workgroup of 64, through its memory.

var<workgroup> values_of_all: array<f32, 64>;
var<workgroup> partial: array<vec4<f32>, 64>;

fn sum_of_all(value: f32, index: u32) -> f32 {
    values_of_all[index] = value;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < 64u; i++) {
        sum += values_of_all[i];
    }
    workgroupBarrier();
    return sum;
}

fn max_of_all(value: f32, index: u32) -> f32 {
    values_of_all[index] = value;
    workgroupBarrier();
    var most = value;
    for (var i = 0u; i < 64u; i++) {
        most = max(most, values_of_all[i]);
    }
    workgroupBarrier();
    return most;
}

// The sum, which only invocation 0 gets.
fn sum_in_first(value: vec4<f32>, index: u32) -> vec4<f32> {
    partial[index] = value;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if index < half {
            partial[index] += partial[index + half];
        }
    }
    return partial[index];
}
