// Depthwise convolution with zero padding, four output channels of one pixel an invocation.
// Output channel o reads input channel o / MULTIPLIER.

struct Depthwise {
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    // Vectors of four channels: of x and of y.
    in4: u32,
    out4: u32,
    kernel_height: u32,
    kernel_width: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> params: Depthwise;
@group(0) @binding(1) var<storage, read> x: array<vec4<x_t>>;
// [kernel_height * kernel_width][out4]
@group(0) @binding(2) var<storage, read> kernels: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<y_t>>;

fn channels(pixel: u32, channel: u32) -> vec4<f32> {
    if MULTIPLIER == 1u {
        return vec4<f32>(x[pixel + channel]);
    }
    var v: vec4<f32>;
    for (var i = 0u; i < 4u; i++) {
        // Channels that only fill a vector up have zero kernels: which ones they read is all the same.
        let input = min((4u * channel + i) / MULTIPLIER, 4u * params.in4 - 1u);
        v[i] = f32(x[pixel + input / 4u][input % 4u]);
    }
    return v;
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let channel = id.x;
    if channel >= params.out4 || id.y >= params.out_width {
        return;
    }
    var sum = vec4(0.0);
    if BIAS {
        sum = bias[channel];
    }
    for (var ky = 0u; ky < params.kernel_height; ky++) {
        // Beyond the upper or left edge these wrap around to large numbers.
        let iy = id.z * params.stride + ky - params.kernel_height / 2u;
        if iy >= params.height {
            continue;
        }
        for (var kx = 0u; kx < params.kernel_width; kx++) {
            let ix = id.y * params.stride + kx - params.kernel_width / 2u;
            if ix >= params.width {
                continue;
            }
            let tap = (ky * params.kernel_width + kx) * params.out4 + channel;
            sum += channels((iy * params.width + ix) * params.in4, channel) * kernels[tap];
        }
    }
    y[(id.z * params.out_width + id.y) * params.out4 + channel] = to_y(activate(sum));
}
