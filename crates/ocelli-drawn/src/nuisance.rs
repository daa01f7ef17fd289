//! What a photograph adds to a scene: a view aslant, uneven light, blur, noise and JPEG. Each may be absent.

use crate::jpeg;
use crate::outline::{Point, turn};
use crate::rng::Rng;

/// All of it, for one scene. Lengths are in parts of the picture's side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nuisances {
    pub(crate) camera: Camera,
    pub(crate) light: Option<Light>,
    /// Standard deviation, in thousandths of the side.
    pub(crate) blur: f32,
    /// Largest change of a channel.
    pub(crate) noise: u8,
    /// JPEG's quality, if it is one.
    pub(crate) jpeg: Option<u32>,
}

/// A camera that is not quite straight.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Camera {
    /// Tangent of half the angle of its turn.
    turn: f32,
    /// How much nearer one side is than the middle.
    slant: Point,
}

/// Light from one side: how bright the picture is, of 256.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Light {
    middle: i32,
    /// From the left to the right, and from the top to the bottom.
    change: [i32; 2],
}

impl Nuisances {
    /// A fifth of the scenes are clean; in the others each nuisance is there or not.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        if rng.chance(0.2) {
            return Self::default();
        }
        let mut camera = Camera::default();
        if rng.chance(0.5) {
            // Up to 6 degrees.
            camera.turn = rng.between(-0.0525, 0.0525);
        }
        if rng.chance(0.4) {
            camera.slant = [rng.between(-0.12, 0.12), rng.between(-0.12, 0.12)];
        }
        let mut light = None;
        if rng.chance(0.4) {
            // Not so dark that orange would be brown.
            let change = [rng.below(73) as i32 - 36, rng.below(73) as i32 - 36];
            light = Some(Light { middle: 232 + rng.below(41) as i32, change });
        }
        let blur = if rng.chance(0.35) { rng.between(1.5, 5.0) } else { 0.0 };
        let noise = if rng.chance(0.4) { 3 + rng.below(20) as u8 } else { 0 };
        let jpeg = rng.chance(0.4).then(|| 35 + rng.below(56) as u32);
        Self { camera, light, blur, noise, jpeg }
    }

    /// Do to the pixels what the camera does not do to the curves.
    pub(crate) fn apply(&self, rgb: &mut [u8], size: usize, rng: &mut Rng) {
        if let Some(light) = self.light {
            shine(rgb, size, light);
        }
        blur(rgb, size, self.blur * size as f32 / 1000.0);
        if self.noise > 0 {
            grain(rgb, self.noise, rng);
        }
        if let Some(quality) = self.jpeg {
            jpeg::degrade(rgb, size, quality);
        }
    }
}

impl Camera {
    /// Where it sees a point of the picture; both from 0 to 1. What is inside stays inside.
    pub(crate) fn see(&self, point: Point) -> Point {
        let [x, y] = turn([point[0] - 0.5, point[1] - 0.5], self.turn);
        // Smaller, so that corners stay in the picture: turned by angle t they reach 0.5 (cos t + sin t), and
        // sin t < 2 tan(t/2).
        let fit = (1.0 - 0.55 * (self.slant[0].abs() + self.slant[1].abs())) / (1.0 + 2.0 * self.turn.abs());
        let near = fit / (1.0 + self.slant[0] * x + self.slant[1] * y);
        [0.5 + x * near, 0.5 + y * near]
    }
}

fn shine(rgb: &mut [u8], size: usize, light: Light) {
    let side = size as i32;
    for (y, row) in rgb.chunks_exact_mut(size * 3).enumerate() {
        let down = light.middle + light.change[1] * (2 * y as i32 - side) / (2 * side);
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let bright = down + light.change[0] * (2 * x as i32 - side) / (2 * side);
            for channel in pixel {
                *channel = ((i32::from(*channel) * bright) >> 8).clamp(0, 255) as u8;
            }
        }
    }
}

/// About a Gaussian of `sigma` pixels: each pass of (1 2 1)/4 both ways adds a variance of 1/2.
fn blur(rgb: &mut [u8], size: usize, sigma: f32) {
    let passes = ((2.0 * sigma * sigma + 0.5) as usize).min(24);
    let mut before = vec![0u8; size * 3];
    let mut here = vec![0u8; size * 3];
    for _ in 0..passes {
        for row in rgb.chunks_exact_mut(size * 3) {
            here.copy_from_slice(row);
            for i in 3..size.max(2) * 3 - 3 {
                row[i] = mean(here[i - 3], here[i], here[i + 3]);
            }
        }
        before.copy_from_slice(&rgb[..size * 3]);
        for y in 0..size.saturating_sub(1) {
            let (row, rest) = rgb[y * size * 3..].split_at_mut(size * 3);
            here.copy_from_slice(row);
            for i in 0..size * 3 {
                row[i] = mean(before[i], here[i], rest[i]);
            }
            std::mem::swap(&mut before, &mut here);
        }
    }
}

fn mean(before: u8, here: u8, after: u8) -> u8 {
    ((u16::from(before) + 2 * u16::from(here) + u16::from(after) + 2) >> 2) as u8
}

/// Each channel of each pixel up to `strength` lighter or darker.
fn grain(rgb: &mut [u8], strength: u8, rng: &mut Rng) {
    let strength = i16::from(strength);
    for channels in rgb.chunks_mut(8) {
        let bits = rng.bits().to_le_bytes();
        for (channel, byte) in channels.iter_mut().zip(bits) {
            let change = ((i16::from(byte) - 128) * strength) >> 7;
            *channel = (i16::from(*channel) + change).clamp(0, 255) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_camera_keeps_what_is_inside_inside() {
        let mut rng = Rng::new(3, 0);
        for _ in 0..3000 {
            let camera = Nuisances::random(&mut rng).camera;
            let point = [rng.unit(), rng.unit()];
            for corner in [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], point] {
                let seen = camera.see(corner);
                assert!(seen.iter().all(|s| (-0.001..=1.001).contains(s)), "{camera:?} {corner:?} {seen:?}");
            }
        }
    }

    #[test]
    fn each_nuisance_changes_pixels_and_keeps_their_mean_near() {
        let original: Vec<u8> =
            (0..64 * 64).flat_map(|i| if i % 64 < 32 { [200, 60, 60] } else { [60, 60, 200] }).collect();
        let mean = |rgb: &[u8]| rgb.iter().map(|&c| f64::from(c)).sum::<f64>() / rgb.len() as f64;
        let light = Light { middle: 240, change: [40, 0] };
        let all = [
            Nuisances { light: Some(light), ..Nuisances::default() },
            Nuisances { blur: 15.0, ..Nuisances::default() },
            Nuisances { noise: 12, ..Nuisances::default() },
            Nuisances { jpeg: Some(40), ..Nuisances::default() },
        ];
        for nuisances in all {
            let mut rgb = original.clone();
            nuisances.apply(&mut rgb, 64, &mut Rng::new(1, 1));
            assert_ne!(rgb, original, "{nuisances:?}");
            assert!((mean(&rgb) - mean(&original)).abs() < 12.0, "{nuisances:?} {}", mean(&rgb));
        }
        let mut rgb = original.clone();
        Nuisances::default().apply(&mut rgb, 64, &mut Rng::new(1, 1));
        assert_eq!(rgb, original);
    }
}
