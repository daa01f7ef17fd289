// The f16 in the lower half of a word. The built-in conversion may turn its small values into zeros.
fn half_of(word: u32) -> f32 {
    let exponent = (word >> 10u) & 31u;
    let fraction = word & 1023u;
    let normal = bitcast<f32>(((exponent + 112u) << 23u) | (fraction << 13u));
    let magnitude = select(normal, f32(fraction) * 5.9604645e-8, exponent == 0u);
    return select(magnitude, -magnitude, (word & 0x8000u) != 0u);
}
