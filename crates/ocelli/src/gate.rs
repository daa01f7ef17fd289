//! The gate of quantization: how far a quantized model is from the original, on pictures.
//!
//! For each picture both models read the same prompt. Compared are the picture's embeddings, the
//! probabilities of the next token at every position of the prompt, and 16 greedy tokens.

use ocelli_image::Rgb8;
use ocelli_plan::BlockFormat;
use web_time::Instant;

use crate::Error;
use crate::fastvlm::FastVlm;
use crate::request::{Image, ImageOptions, Request};
use crate::trace::Stage;

/// Greedy tokens that are compared.
pub const GREEDY_TOKENS: usize = 16;
/// What both models are asked.
const QUESTION: &str = "Describe the image.";

/// How far the quantized model is from the original on one picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// Cosine of the picture's embeddings, all rows as one vector.
    pub image_cosine: f64,
    /// Positions of the prompt.
    pub positions: usize,
    /// Kullback-Leibler divergence from the original's next-token probabilities, in nats, mean over the
    /// positions.
    pub kl: f64,
    /// The largest of them.
    pub kl_max: f64,
    /// Share of positions with the same most likely token.
    pub top1: f64,
    /// Share of equal tokens among [`GREEDY_TOKENS`], place by place: after the first difference the two
    /// answers go their own ways.
    pub greedy: f64,
}

/// What a quantized model must reach, as means over the pictures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateLimits {
    /// At least this cosine of embeddings.
    pub image_cosine: f64,
    /// At most this divergence in nats.
    pub kl: f64,
    /// At least this share of equal most likely tokens.
    pub top1: f64,
}

impl GateLimits {
    /// The limits for layers in this format, or with the vision tower alone quantized. Greedy tokens have none: one
    /// near-tie changes all that follow.
    pub const fn of(layers: Option<BlockFormat>) -> Self {
        match layers {
            None | Some(BlockFormat::Q8 | BlockFormat::Int8) => {
                Self { image_cosine: 0.999, kl: 0.02, top1: 0.9 }
            }
            Some(BlockFormat::Q4) => Self { image_cosine: 0.999, kl: 0.25, top1: 0.75 },
        }
    }

    /// Which limits the pictures' means break, in words; none when the gate is passed. A value that is
    /// no number breaks its limit.
    pub fn broken(&self, pictures: &[Compared]) -> Vec<String> {
        let mean = |of: fn(&Compared) -> f64| pictures.iter().map(of).sum::<f64>() / pictures.len() as f64;
        let at_least = |name: &str, value: f64, limit: f64| {
            (value.is_nan() || value < limit).then(|| format!("{name} {value:.4} is under {limit}"))
        };
        let kl = mean(|c| c.kl);
        let kl_breaks = kl.is_nan() || kl > self.kl;
        [
            at_least("cosine of image embeddings", mean(|c| c.image_cosine), self.image_cosine),
            kl_breaks.then(|| format!("KL divergence {kl:.4} is over {}", self.kl)),
            at_least("top-1 agreement", mean(|c| c.top1), self.top1),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Compare on each picture. Both models must have the same tokenizer and sizes, as a model and its
/// quantized twin have.
///
/// # Errors
/// When one of the models cannot answer.
pub fn compare(original: &FastVlm, quantized: &FastVlm, images: &[Image]) -> Result<Vec<Compared>, Error> {
    images.iter().map(|image| compare_one(original, quantized, image)).collect()
}

fn compare_one(original: &FastVlm, quantized: &FastVlm, image: &Image) -> Result<Compared, Error> {
    let mut request = Request::ask(QUESTION, vec![image.clone()]);
    request.max_tokens = GREEDY_TOKENS;
    request.ignore_eos = true;
    let (want_embeds, want) = embeds_and_logits(original, &request)?;
    let (got_embeds, got) = embeds_and_logits(quantized, &request)?;
    // The matrix may have more rows than the vocabulary.
    let (rows, stride, vocabulary) = (want.shape[0], want.shape[1], original.config().vocab_size);
    let (mut kl, mut kl_max, mut same) = (0.0, 0.0_f64, 0);
    for (want, got) in want.values.chunks_exact(stride).zip(got.values.chunks_exact(stride)) {
        let divergence = kl_divergence(&want[..vocabulary], &got[..vocabulary]);
        kl += divergence;
        kl_max = if divergence.is_nan() { f64::NAN } else { kl_max.max(divergence) };
        same += usize::from(top(&want[..vocabulary]) == top(&got[..vocabulary]));
    }
    let tokens = |model: &FastVlm| Ok::<_, Error>(model.generate(&request, &mut |_| ())?.token_ids);
    let (want_ids, got_ids) = (tokens(original)?, tokens(quantized)?);
    let equal = want_ids.iter().zip(&got_ids).filter(|(a, b)| a == b).count();
    Ok(Compared {
        image_cosine: cosine(&want_embeds, &got_embeds),
        positions: rows,
        kl: kl / rows as f64,
        kl_max,
        top1: same as f64 / rows as f64,
        greedy: equal as f64 / want_ids.len().max(1) as f64,
    })
}

/// The picture's embeddings, and the logits of every position.
fn embeds_and_logits(model: &FastVlm, request: &Request) -> Result<(Vec<f32>, Stage), Error> {
    let mut stages = model.trace(request)?;
    let mut take = |name: &str| {
        let at = stages.iter().position(|stage| stage.name == name);
        stages.swap_remove(at.expect("a trace has this stage"))
    };
    Ok((take("projected").values, take("logits")))
}

/// `sum p (ln p - ln q)` of the softmaxes of two rows of logits.
fn kl_divergence(want: &[f32], got: &[f32]) -> f64 {
    let (log_want, log_got) = (log_sum_exp(want), log_sum_exp(got));
    let terms = want.iter().zip(got).map(|(&w, &g)| {
        let (w, g) = (f64::from(w) - log_want, f64::from(g) - log_got);
        w.exp() * (w - g)
    });
    // Rounding can make equal rows a little less than equal.
    let sum: f64 = terms.sum();
    if sum.is_nan() { sum } else { sum.max(0.0) }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + row.iter().map(|&v| (f64::from(v) - largest).exp()).sum::<f64>().ln()
}

fn top(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Three drawn pictures for those who give none: a sky over a field with a sun, a board of coloured
/// squares, and rings on noise. They show whether something is broken; how well a model keeps what it
/// knows about photographs only photographs show.
///
/// # Errors
/// Never for a model that loads: its own resolution suits it.
pub fn built_in_images(model: &FastVlm) -> Result<Vec<Image>, Error> {
    let painters: [fn(usize, usize) -> [u8; 3]; 3] = [landscape, board, rings];
    let paint = |pixel: fn(usize, usize) -> [u8; 3]| {
        let places = (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y)));
        let pixels = places.flat_map(|(x, y)| pixel(x, y)).collect();
        let picture = Rgb8 { height: HEIGHT, width: WIDTH, pixels };
        model.prepare_image(&picture, &ImageOptions::default(), Instant::now())
    };
    painters.into_iter().map(paint).collect()
}

const WIDTH: usize = 256;
const HEIGHT: usize = 192;

fn landscape(x: usize, y: usize) -> [u8; 3] {
    let (dx, dy) = (x.abs_diff(190), y.abs_diff(45));
    if dx * dx + dy * dy < 600 {
        [250, 220, 90]
    } else if y < 120 {
        [90 + (y / 2) as u8, 150 + (y / 2) as u8, 235]
    } else {
        [60, 170 - (y / 3) as u8 + (x % 7) as u8, 50]
    }
}

fn board(x: usize, y: usize) -> [u8; 3] {
    let square = x / 32 + 8 * (y / 32);
    [(square * 53 % 256) as u8, (square * 97 % 256) as u8, (square * 31 % 256) as u8]
}

fn rings(x: usize, y: usize) -> [u8; 3] {
    let (dx, dy) = (x.abs_diff(WIDTH / 2), y.abs_diff(HEIGHT / 2));
    let ring = ((dx * dx + dy * dy).isqrt() / 12 % 2 * 180) as u8;
    let noise = ((x * 7919 + y * 104_729) % 61) as u8;
    [ring + noise, 70 + noise, 200 - noise]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_known_rows() {
        let want = [0.0_f32, 0.0];
        // p = (1/2, 1/2), q = (3/4, 1/4).
        let expected = 0.5 * (0.5_f64 / 0.75).ln() + 0.5 * (0.5_f64 / 0.25).ln();
        assert!((kl_divergence(&want, &[3f32.ln(), 0.0]) - expected).abs() < 1e-6);
        assert!(kl_divergence(&want, &[5.0, 5.0]) < 1e-12);
        assert!(kl_divergence(&want, &[f32::NAN, 0.0]).is_nan());
    }

    #[test]
    fn what_is_no_number_breaks_the_limit() {
        let fine =
            Compared { image_cosine: 1.0, positions: 9, kl: 0.01, kl_max: 0.1, top1: 0.97, greedy: 0.1 };
        let limits = GateLimits::of(Some(BlockFormat::Q8));
        assert!(limits.broken(&[fine, fine]).is_empty());
        let nan = Compared { kl: f64::NAN, image_cosine: f64::NAN, ..fine };
        assert_eq!(limits.broken(&[fine, nan]).len(), 2);
        assert_eq!(limits.broken(&[Compared { top1: 0.5, ..fine }]), ["top-1 agreement 0.5000 is under 0.9"]);
    }
}
