//! The windows of a dense convolution as rows, so that the convolution is a linear.

use super::rows::for_pieces;
use super::{Array, CpuOp};

/// The operation; its input is `[batch, height, width, channels]`, its output `[batch, rows, columns, channels * kernel *
/// kernel]` with the order of a conv weight: channel, row, column.
#[derive(Debug, Clone)]
pub(crate) struct Patches {
    /// Side of a window.
    pub(crate) kernel: usize,
    /// Pixels from one window to the next.
    pub(crate) stride: usize,
    /// Zeros around the image.
    pub(crate) padding: usize,
}

impl Patches {
    /// Rows and columns of windows.
    fn output(&self, x: &[usize]) -> [usize; 2] {
        [x[1], x[2]].map(|side| (side + 2 * self.padding - self.kernel) / self.stride + 1)
    }

    /// Calls `f(place in the window row, place of the pixel in its image)` for every pixel of a window that is in the
    /// image; channel 0 of both.
    fn window(
        &self,
        [height, width]: [usize; 2],
        row: usize,
        column: usize,
        mut f: impl FnMut(usize, usize),
    ) {
        for ky in 0..self.kernel {
            let Some(y) = (row * self.stride + ky).checked_sub(self.padding).filter(|&y| y < height) else {
                continue;
            };
            for kx in 0..self.kernel {
                let x = (column * self.stride + kx).checked_sub(self.padding);
                if let Some(x) = x.filter(|&x| x < width) {
                    f(ky * self.kernel + kx, y * width + x);
                }
            }
        }
    }
}

impl CpuOp<1> for Patches {
    type Saved = ();

    fn forward(&self, [x]: &[Array; 1]) -> (Vec<f32>, Vec<usize>, ()) {
        let (channels, taps) = (x.columns(), self.kernel * self.kernel);
        let [rows, columns] = self.output(x.shape());
        let (size, image) = ([x.shape()[1], x.shape()[2]], x.values().len() / x.shape()[0]);
        let mut out = vec![0.0; x.shape()[0] * rows * columns * channels * taps];
        for_pieces(&mut out, channels * taps, |first, piece| {
            for (i, window) in piece.chunks_exact_mut(channels * taps).enumerate() {
                let (at, batch) = ((first + i) % (rows * columns), (first + i) / (rows * columns));
                let image = &x.values()[batch * image..][..image];
                self.window(size, at / columns, at % columns, |tap, pixel| {
                    for c in 0..channels {
                        window[c * taps + tap] = image[pixel * channels + c];
                    }
                });
            }
        });
        (out, vec![x.shape()[0], rows, columns, channels * taps], ())
    }

    fn backward(&self, [x]: &[Array; 1], (): &(), grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        let (channels, taps) = (x.columns(), self.kernel * self.kernel);
        let [rows, columns] = self.output(x.shape());
        let (size, image) = ([x.shape()[1], x.shape()[2]], x.values().len() / x.shape()[0]);
        let mut out = vec![0.0; x.values().len()];
        for_pieces(&mut out, image, |first, piece| {
            for (i, image) in piece.chunks_exact_mut(image).enumerate() {
                for at in 0..rows * columns {
                    let window =
                        &grad[((first + i) * rows * columns + at) * channels * taps..][..channels * taps];
                    self.window(size, at / columns, at % columns, |tap, pixel| {
                        for c in 0..channels {
                            image[pixel * channels + c] += window[c * taps + tap];
                        }
                    });
                }
            }
        });
        [Some(out)]
    }
}
