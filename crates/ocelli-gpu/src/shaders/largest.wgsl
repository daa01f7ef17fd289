// Which of some values is the largest, the first of equal ones. Launched twice: each workgroup finds that of its share,
// then one workgroup (FOUND) takes that of all.

struct Largest {
    // Values, or what the first launch found.
    count: u32,
    // Invocations of the launch.
    step: u32,
}

@group(0) @binding(0) var<uniform> params: Largest;
@group(0) @binding(1) var<storage, read> x: array<x_t>;
// A key and the index of its value each.
@group(0) @binding(2) var<storage, read> found: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> largest: array<vec2<u32>>;

var<workgroup> partial: array<vec2<u32>, 64>;

// Keys are in the order of the values. Both zeros are equal, what is no number comes before all others.
fn key(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return 0u;
    }
    return select(0x80000000u | magnitude, ~bits, bits > 0x80000000u);
}

fn better(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return select(b, a, a.x > b.x || (a.x == b.x && a.y < b.y));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    var best = vec2(0u, 0xffffffffu);
    for (var i = 64u * group.x + index; i < params.count; i += params.step) {
        if FOUND {
            best = better(found[i], best);
        } else {
            best = better(vec2(key(f32(x[i])), i), best);
        }
    }
    partial[index] = best;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if index < half {
            partial[index] = better(partial[index + half], partial[index]);
        }
    }
    if index == 0u {
        largest[group.x] = partial[0];
    }
}
