// Dense convolution with zero padding, four output channels of one pixel an invocation.

struct Conv {
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    // Vectors of four channels: of x and of y.
    in4: u32,
    out4: u32,
    kernel: u32,
    stride: u32,
    padding: u32,
}

@group(0) @binding(0) var<uniform> params: Conv;
@group(0) @binding(1) var<storage, read> x: array<vec4<x_t>>;
// [kernel * kernel][4 * in4][out4]
@group(0) @binding(2) var<storage, read> kernels: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<y_t>>;

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
    for (var ky = 0u; ky < params.kernel; ky++) {
        for (var kx = 0u; kx < params.kernel; kx++) {
            // Beyond the upper or left edge these wrap around to large numbers.
            let iy = id.z * params.stride + ky - params.padding;
            let ix = id.y * params.stride + kx - params.padding;
            if iy >= params.height || ix >= params.width {
                continue;
            }
            let pixel = (iy * params.width + ix) * params.in4;
            let tap = (ky * params.kernel + kx) * params.in4;
            for (var c = 0u; c < params.in4; c++) {
                let v = vec4<f32>(x[pixel + c]);
                let at = 4u * (tap + c) * params.out4 + channel;
                sum += v.x * kernels[at];
                sum += v.y * kernels[at + params.out4];
                sum += v.z * kernels[at + 2u * params.out4];
                sum += v.w * kernels[at + 3u * params.out4];
            }
        }
    }
    y[(id.z * params.out_width + id.y) * params.out4 + channel] = to_y(activate(sum));
}
