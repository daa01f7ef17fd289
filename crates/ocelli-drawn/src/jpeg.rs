//! What JPEG loses: colours at half the resolution, and 8x8 blocks of rounded cosine coefficients.
//!
//! ITU-T T.81, Annex A.3, with the tables of Annex K.1 scaled by quality as the Independent JPEG Group's library
//! scales them. Entropy coding loses nothing, so it is left out: the picture is what an encoder and a decoder would
//! make of it, up to their own rounding.

/// Annex K.1, luminance.
#[rustfmt::skip]
const LUMA: [u16; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
];

/// Annex K.1, chrominance.
#[rustfmt::skip]
const CHROMA: [u16; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
];

/// Half of the cosine of k/16 of half a turn: c(u)/2 cos((2x + 1) u pi / 16), row u, column x.
#[rustfmt::skip]
const COSINES: [[f32; 8]; 8] = {
    const A: f32 = 0.353_553_39;
    const B: f32 = 0.490_392_64;
    const C: f32 = 0.461_939_77;
    const D: f32 = 0.415_734_8;
    const E: f32 = 0.277_785_12;
    const F: f32 = 0.191_341_72;
    const G: f32 = 0.097_545_16;
    [
        [A, A, A, A, A, A, A, A],
        [B, D, E, G, -G, -E, -D, -B],
        [C, F, -F, -C, -C, -F, F, C],
        [D, -G, -B, -E, E, B, G, -D],
        [A, -A, -A, A, A, -A, -A, A],
        [E, -B, G, D, -D, -G, B, -E],
        [F, -C, C, -F, -F, C, -C, F],
        [G, -E, D, -B, B, -D, E, -G],
    ]
};

type Block = [[f32; 8]; 8];

/// Put a square RGB picture of `size` pixels a side through JPEG of this quality, 1 to 100.
pub(crate) fn degrade(rgb: &mut [u8], size: usize, quality: u32) {
    // Blocks of colours span 16 pixels.
    let side = size.div_ceil(16) * 16;
    let half = side / 2;
    let mut luma = vec![0.0; side * side];
    let mut blue = vec![0.0; half * half];
    let mut red = vec![0.0; half * half];
    for y in 0..side {
        let from = &rgb[y.min(size - 1) * size * 3..][..size * 3];
        let (to, blues) = (&mut luma[y * side..][..side], &mut blue[y / 2 * half..][..half]);
        let reds = &mut red[y / 2 * half..][..half];
        for x in 0..side {
            let pixel = &from[x.min(size - 1) * 3..][..3];
            let [r, g, b] = [f32::from(pixel[0]), f32::from(pixel[1]), f32::from(pixel[2])];
            to[x] = 0.299 * r + 0.587 * g + 0.114 * b - 128.0;
            blues[x / 2] += 0.25 * (-0.168_736 * r - 0.331_264 * g + 0.5 * b);
            reds[x / 2] += 0.25 * (0.5 * r - 0.418_688 * g - 0.081_312 * b);
        }
    }
    round_blocks(&mut luma, side, &steps(&LUMA, quality));
    let steps = steps(&CHROMA, quality);
    round_blocks(&mut blue, half, &steps);
    round_blocks(&mut red, half, &steps);
    for y in 0..size {
        let to = &mut rgb[y * size * 3..][..size * 3];
        let (from, blues) = (&luma[y * side..][..side], &blue[y / 2 * half..][..half]);
        let reds = &red[y / 2 * half..][..half];
        for (x, pixel) in to.chunks_exact_mut(3).enumerate() {
            let (l, b, r) = (from[x] + 128.5, blues[x / 2], reds[x / 2]);
            // A cast to u8 saturates.
            pixel[0] = (l + 1.402 * r) as u8;
            pixel[1] = (l - 0.344_136 * b - 0.714_136 * r) as u8;
            pixel[2] = (l + 1.772 * b) as u8;
        }
    }
}

/// Steps that coefficients are rounded to, `[v][u]`.
fn steps(table: &[u16; 64], quality: u32) -> Block {
    let quality = quality.clamp(1, 100);
    let scale = if quality < 50 { 5000 / quality } else { 200 - 2 * quality };
    let step = |at: usize| ((u32::from(table[at]) * scale + 50) / 100).clamp(1, 255) as f32;
    std::array::from_fn(|v| std::array::from_fn(|u| step(v * 8 + u)))
}

/// Round the coefficients of every 8x8 block of a plane.
fn round_blocks(plane: &mut [f32], side: usize, steps: &Block) {
    let inverse = steps.map(|row| row.map(|step| 1.0 / step));
    let columns: Block = std::array::from_fn(|x| std::array::from_fn(|u| COSINES[u][x]));
    for top in (0..side).step_by(8) {
        for left in (0..side).step_by(8) {
            let mut block: Block = [[0.0; 8]; 8];
            for y in 0..8 {
                block[y].copy_from_slice(&plane[(top + y) * side + left..][..8]);
            }
            // Forward: C X Cᵀ. Back: Cᵀ Y C.
            let mut coefficients = product(&product(&COSINES, &block), &columns);
            for v in 0..8 {
                for u in 0..8 {
                    coefficients[v][u] = nearest(coefficients[v][u] * inverse[v][u]) * steps[v][u];
                }
            }
            let block = product(&product(&columns, &coefficients), &COSINES);
            for y in 0..8 {
                plane[(top + y) * side + left..][..8].copy_from_slice(&block[y]);
            }
        }
    }
}

/// The nearest integer of a number below 2^22: there, adding 1.5 * 2^23 leaves no bits for a fraction.
fn nearest(value: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (value + NO_FRACTION) - NO_FRACTION
}

/// The matrix product, sums in order.
#[inline(always)]
fn product(a: &Block, b: &Block) -> Block {
    let mut out = [[0.0; 8]; 8];
    for i in 0..8 {
        for k in 0..8 {
            for j in 0..8 {
                out[i][j] += a[i][k] * b[k][j];
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(size: usize) -> Vec<u8> {
        (0..size * size)
            .flat_map(|i| [(i % 256) as u8, (i / size) as u8, if i % 7 < 3 { 200 } else { 90 }])
            .collect()
    }

    fn distance(a: &[u8], b: &[u8]) -> f64 {
        let sum: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
        (sum / a.len() as f64).sqrt()
    }

    #[test]
    fn the_cosines_are_orthonormal() {
        let columns: Block = std::array::from_fn(|x| std::array::from_fn(|u| COSINES[u][x]));
        let unit = product(&COSINES, &columns);
        for i in 0..8 {
            for j in 0..8 {
                assert!((unit[i][j] - f32::from(u8::from(i == j))).abs() < 1e-6, "{i} {j}");
            }
        }
    }

    #[test]
    fn less_quality_loses_more_and_gray_loses_nothing() {
        for size in [40, 64] {
            let original = picture(size);
            let loss = |quality| {
                let mut rgb = original.clone();
                degrade(&mut rgb, size, quality);
                distance(&original, &rgb)
            };
            let losses = [95, 60, 20].map(loss);
            assert!(losses[0] < losses[1] && losses[1] < losses[2] && losses[2] < 60.0, "{losses:?}");
        }
        let mut gray = vec![128; 48 * 48 * 3];
        degrade(&mut gray, 48, 50);
        assert!(gray.iter().all(|&c| c == 128));
    }
}
