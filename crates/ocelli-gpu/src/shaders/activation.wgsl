// What follows the bias: ACTIVATION is one of the codes in emit/linear.rs.

// Rational approximation of erf, absolute error below 5e-7; coefficients are those of Eigen's
// generic_fast_erf_float (eigen.tuxfamily.org, MathFunctionsImpl.h).
fn erf(v: vec4<f32>) -> vec4<f32> {
    let x = clamp(v, vec4(-4.0), vec4(4.0));
    let x2 = x * x;
    var p = vec4(-2.7261424e-10);
    p = p * x2 + 2.7706815e-8;
    p = p * x2 - 2.101024e-6;
    p = p * x2 - 5.6925064e-5;
    p = p * x2 - 7.3499062e-4;
    p = p * x2 - 2.9546e-3;
    p = p * x2 - 1.6096033e-2;
    var q = vec4(-1.4566072e-5);
    q = q * x2 - 2.1337405e-4;
    q = q * x2 - 1.682827e-3;
    q = q * x2 - 7.3733293e-3;
    q = q * x2 - 1.426474e-2;
    return x * p / q;
}

// Beyond 80 the result is 0 or 1 in f32 anyway, and exp stays finite.
fn sigmoid(v: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(-clamp(v, vec4(-80.0), vec4(80.0))));
}

fn activate(v: vec4<f32>) -> vec4<f32> {
    if ACTIVATION == 1u {
        return 0.5 * v * (1.0 + erf(v * 0.70710678));
    }
    if ACTIVATION == 2u {
        return v * sigmoid(v);
    }
    if ACTIVATION == 3u {
        return v * sigmoid(1.702 * v);
    }
    if ACTIVATION == 4u {
        return max(v, vec4(0.0));
    }
    return v;
}
