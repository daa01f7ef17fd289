//! Pixels, and curves filled on them.
//!
//! tiny-skia says how much of each pixel a curve covers; it counts that in integers. Colours are blended here, in
//! integers too, so that a scene has the same bytes on every machine.

use tiny_skia::{FillRule, Mask, PathBuilder, Transform};

use crate::outline::{Outline, Piece, Point};
use crate::vocabulary::Rgb;

/// A square picture while it is drawn.
pub(crate) struct Canvas {
    size: usize,
    /// `[height, width, 3]`, rows from the top.
    pub(crate) rgb: Vec<u8>,
    /// Empty between two fills.
    mask: Mask,
}

/// How a curve is filled.
#[derive(Clone, Copy)]
pub(crate) struct Paint {
    pub(crate) rgb: Rgb,
    /// 0 leaves what is there, 255 covers it.
    pub(crate) alpha: u8,
    /// How much lighter (of 256) the curve's top is than its middle, and darker its foot.
    pub(crate) shade: i32,
}

impl Paint {
    pub(crate) fn solid(rgb: Rgb) -> Self {
        Self { rgb, alpha: 255, shade: 0 }
    }
}

impl Canvas {
    /// A black square of this many pixels a side, at least 1.
    pub(crate) fn new(size: usize) -> Self {
        let mask = Mask::new(size as u32, size as u32).expect("a picture has a size");
        Self { size, rgb: vec![0; size * size * 3], mask }
    }

    /// Fill a curve; its points go through `place`, which maps them to pixels.
    pub(crate) fn fill(&mut self, outline: &Outline, place: impl Fn(Point) -> Point, paint: Paint) {
        let mut path = PathBuilder::new();
        for piece in &outline.pieces {
            match *piece {
                Piece::Move(a) => {
                    let a = place(a);
                    path.move_to(a[0], a[1]);
                }
                Piece::Line(a) => {
                    let a = place(a);
                    path.line_to(a[0], a[1]);
                }
                Piece::Quad(a, b) => {
                    let (a, b) = (place(a), place(b));
                    path.quad_to(a[0], a[1], b[0], b[1]);
                }
                Piece::Cubic(a, b, c) => {
                    let (a, b, c) = (place(a), place(b), place(c));
                    path.cubic_to(a[0], a[1], b[0], b[1], c[0], c[1]);
                }
                Piece::Close => path.close(),
            }
        }
        // A curve without area covers nothing.
        let Some(path) = path.finish() else { return };
        let rule = if outline.even_odd { FillRule::EvenOdd } else { FillRule::Winding };
        self.mask.fill_path(&path, rule, true, Transform::identity());
        let bounds = path.bounds();
        let pixel = |at: f32| (at.max(0.0) as usize).min(self.size);
        let (left, right) = (pixel(bounds.left() - 1.0), pixel(bounds.right() + 2.0));
        let (top, bottom) = (pixel(bounds.top() - 1.0), pixel(bounds.bottom() + 2.0));
        self.blend(left, right, top, bottom, paint);
    }

    /// Blend the paint where the mask is, and empty the mask.
    fn blend(&mut self, left: usize, right: usize, top: usize, bottom: usize, paint: Paint) {
        let size = self.size;
        let coverage = self.mask.data_mut();
        for y in top..bottom {
            // 256 is the colour as it is.
            let along = (2 * (y - top) as i32 - (bottom - top) as i32) * paint.shade / (bottom - top) as i32;
            let rgb = paint.rgb.map(|c| ((i32::from(c) * (256 - along)) >> 8).clamp(0, 255) as u32);
            let row = y * size;
            for x in left..right {
                let alpha = u32::from(coverage[row + x]) * u32::from(paint.alpha) / 255;
                if alpha == 0 {
                    continue;
                }
                let pixel = &mut self.rgb[(row + x) * 3..][..3];
                for channel in 0..3 {
                    let under = u32::from(pixel[channel]);
                    pixel[channel] = ((under * (255 - alpha) + rgb[channel] * alpha + 127) / 255) as u8;
                }
            }
            coverage[row + left..row + right].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_covered_by_half_is_half_painted() {
        let mut canvas = Canvas::new(8);
        let outline = Outline::rectangle(2.0, 2.0, 4.5, 4.0);
        canvas.fill(&outline, |p| p, Paint::solid([200, 100, 0]));
        let at = |x: usize, y: usize| &canvas.rgb[(y * 8 + x) * 3..][..3];
        assert_eq!(
            (at(2, 2), at(3, 3), at(1, 2), at(2, 4)),
            (&[200, 100, 0][..], &[200, 100, 0][..], &[0; 3][..], &[0; 3][..])
        );
        assert!((90..=110).contains(&at(4, 2)[0]), "{:?}", at(4, 2));
        assert!(canvas.mask.data().iter().all(|&m| m == 0));
    }

    #[test]
    fn curves_outside_of_the_picture_are_cut() {
        let mut canvas = Canvas::new(8);
        canvas.fill(&Outline::rectangle(-50.0, -50.0, 50.0, 3.0), |p| p, Paint::solid([9, 9, 9]));
        canvas.fill(&Outline::rectangle(90.0, 90.0, 99.0, 99.0), |p| p, Paint::solid([7, 7, 7]));
        assert_eq!(canvas.rgb.iter().filter(|&&c| c == 9).count(), 3 * 8 * 3);
        assert!(!canvas.rgb.contains(&7));
    }
}
