//! Stored augmentations of pictures, applied again exactly.
//!
//! A reinforced data set stores what its pictures were changed by when the teachers saw them. The steps are in a fixed
//! order, whatever the order in their settings: resize, centre crop, random crop, random resized crop, flip,
//! RandAugment, erase, normalise. Each stored list holds, in that order, what those settings that need it took; `null`
//! where a step was left out. Reference: `apple/ml-mobileclip-dr`, `src/raygen/dr/transforms.py` at 418551d.

use ocelli_image::{CLIP_MEAN, CLIP_STD, Filter, Rgb8, resize, to_pixel_values};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rand_augment::Op;
use crate::random::Random;

/// The longest side that a step may make.
const MOST_PIXELS: usize = 1 << 13;
/// Operations that one picture may get.
const MOST_OPS: usize = 32;

/// The steps, as `image_augmentation` in the settings of a reinforced data set has them.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "Settings", into = "Settings")]
pub struct Augmentation {
    steps: Vec<Step>,
    mean: [f32; 3],
    std: [f32; 3],
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Resize { size: Size, filter: Filter },
    CenterCrop { size: [usize; 2] },
    RandomCrop { size: [usize; 2] },
    ResizedCrop { size: [usize; 2], filter: Filter, scale: [f64; 2], ratio: [f64; 2] },
    Flip { p: f64 },
    RandAugment { p: f64, ops: usize, bin: usize, bins: usize },
    Erase { p: f64, scale: [f64; 2], ratio: [f64; 2] },
}

/// Height and width, or the shorter of both.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
enum Size {
    Both([usize; 2]),
    Shorter(usize),
}

/// The spelling in a file.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    resize: Option<SizeSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    center_crop: Option<SizeSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    random_crop: Option<SizeSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    random_resized_crop: Option<SizeSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    random_horizontal_flip: Option<FlipSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rand_augment: Option<RandAugmentSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    random_erase: Option<EraseSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    normalize: Option<NormalizeSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mixup: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cutmix: Option<Switch>,
    /// These change nothing: pictures are RGB bytes until they are normalised.
    #[serde(skip_serializing)]
    uint8: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    to_rgb: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    to_tensor: Option<IgnoredAny>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SizeSettings {
    #[serde(default = "yes", skip_serializing)]
    enable: bool,
    size: Size,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interpolation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scale: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ratio: Option<[f64; 2]>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FlipSettings {
    #[serde(default = "yes", skip_serializing)]
    enable: bool,
    #[serde(default = "half")]
    p: f64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RandAugmentSettings {
    #[serde(default = "yes", skip_serializing)]
    enable: bool,
    #[serde(default = "always")]
    p: f64,
    #[serde(default = "two")]
    num_ops: usize,
    #[serde(default = "nine")]
    magnitude: usize,
    #[serde(default = "bins")]
    num_magnitude_bins: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interpolation: Option<String>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct EraseSettings {
    #[serde(default = "yes", skip_serializing)]
    enable: bool,
    #[serde(default = "half")]
    p: f64,
    #[serde(default = "erased")]
    scale: [f64; 2],
    #[serde(default = "erased_ratio")]
    ratio: [f64; 2],
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct NormalizeSettings {
    #[serde(default = "yes", skip_serializing)]
    enable: bool,
    mean: [f32; 3],
    std: [f32; 3],
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct Switch {
    #[serde(default = "yes")]
    enable: bool,
}

fn yes() -> bool {
    true
}
fn half() -> f64 {
    0.5
}
fn always() -> f64 {
    1.0
}
fn two() -> usize {
    2
}
fn nine() -> usize {
    9
}
fn bins() -> usize {
    31
}
fn erased() -> [f64; 2] {
    [0.02, 0.33]
}
fn erased_ratio() -> [f64; 2] {
    [0.3, 3.3]
}

impl Augmentation {
    /// The steps of the published data sets: a random resized crop by a bicubic kernel, and RandAugment.
    pub fn usual(size: usize) -> Self {
        Self {
            steps: vec![
                Step::ResizedCrop {
                    size: [size; 2],
                    filter: Filter::Bicubic,
                    scale: [0.08, 1.0],
                    ratio: [3.0 / 4.0, 4.0 / 3.0],
                },
                Step::RandAugment { p: 1.0, ops: 2, bin: 9, bins: 31 },
            ],
            mean: CLIP_MEAN,
            std: CLIP_STD,
        }
    }

    /// The middle of a picture, and nothing that is left to chance: as pictures are prepared for use.
    pub fn centre(size: usize) -> Self {
        let steps = vec![
            Step::Resize { size: Size::Shorter(size), filter: Filter::Bicubic },
            Step::CenterCrop { size: [size; 2] },
        ];
        Self { steps, mean: CLIP_MEAN, std: CLIP_STD }
    }

    /// The same for a network that takes pictures of another size or differently normalised, as a run of training has
    /// it: pictures come in the network's size, and are otherwise the same.
    pub fn for_network(mut self, size: usize, mean: [f32; 3], std: [f32; 3]) -> Self {
        for step in &mut self.steps {
            if let Step::ResizedCrop { size: old, .. } = step {
                *old = [size; 2];
            }
        }
        Self { mean, std, ..self }
    }

    /// Apply what `stored`, one element of `param_aug`, says. Returns the bytes before they are normalised.
    ///
    /// # Errors
    /// When it does not suit the steps or the picture.
    pub fn replay(&self, image: &Rgb8, stored: &Value) -> Result<Rgb8, String> {
        let list = stored.as_array().ok_or("stored augmentations are no list")?;
        let needed = self.steps.iter().filter(|step| step.stores()).count();
        if list.len() != needed {
            let reason = format!("{} stored parameters where the settings take {needed}", list.len());
            return Err(reason);
        }
        let mut stored = list.iter();
        let mut image = image.clone();
        for step in &self.steps {
            let parameters = if step.stores() { stored.next().unwrap_or(&Value::Null) } else { &Value::Null };
            if step.stores() && parameters.is_null() {
                continue;
            }
            image = step.replay(image, parameters)?;
        }
        Ok(image)
    }

    /// Draw parameters at random and apply them. Returns what to store, and the bytes before they are normalised.
    ///
    /// # Errors
    /// When a step cannot be applied to the picture.
    pub(crate) fn draw(&self, image: &Rgb8, random: &mut Random) -> Result<(Value, Rgb8), String> {
        let (mut stored, mut image) = (Vec::new(), image.clone());
        for step in &self.steps {
            let parameters = step.draw([image.height, image.width], random);
            if !(step.stores() && parameters.is_null()) {
                image = step.replay(image, &parameters)?;
            }
            if step.stores() {
                stored.push(parameters);
            }
        }
        Ok((Value::Array(stored), image))
    }

    /// Normalised values `[height, width, 3]`.
    pub fn normalized(&self, image: &Rgb8) -> Vec<f32> {
        to_pixel_values(&image.pixels, self.mean, self.std)
    }
}

impl Step {
    /// Whether there is an element for it in a stored list.
    fn stores(&self) -> bool {
        !matches!(self, Self::CenterCrop { .. })
    }

    fn replay(&self, image: Rgb8, parameters: &Value) -> Result<Rgb8, String> {
        match self {
            Self::Resize { size, filter } => resized(image, *size, *filter),
            Self::CenterCrop { size: [height, width] } => {
                let (rows, columns) = (image.height.checked_sub(*height), image.width.checked_sub(*width));
                let (Some(rows), Some(columns)) = (rows, columns) else {
                    return Err(format!("a crop of {width}x{height} of {}x{}", image.width, image.height));
                };
                cropped(&image, [half_to_even(rows), half_to_even(columns), *height, *width])
            }
            Self::RandomCrop { size: [height, width] } => {
                let [top, left] = numbers(parameters, "random_crop")?;
                cropped(&image, [top, left, *height, *width])
            }
            Self::ResizedCrop { size: [height, width], filter, .. } => {
                let part = cropped(&image, numbers(parameters, "random_resized_crop")?)?;
                Ok(resize(&part, *height, *width, *filter))
            }
            Self::Flip { .. } => match parameters {
                Value::Bool(true) => Ok(flipped(&image)),
                Value::Bool(false) => Ok(image),
                _ => Err("random_horizontal_flip takes true or false".into()),
            },
            Self::RandAugment { .. } => {
                let ops: Vec<(usize, f64)> = serde_json::from_value(parameters.clone())
                    .map_err(|e| format!("rand_augment takes pairs of a number and a magnitude: {e}"))?;
                if ops.len() > MOST_OPS {
                    return Err(format!("rand_augment with {} operations", ops.len()));
                }
                ops.into_iter().try_fold(image, |image, (op, magnitude)| {
                    let op = Op::ALL.get(op).ok_or_else(|| format!("rand_augment has no operation {op}"))?;
                    op.apply(&image, magnitude)
                })
            }
            Self::Erase { .. } => erase(image, parameters),
        }
    }

    /// Random parameters for a picture of height and width; null if the step is left out.
    fn draw(&self, sides: [usize; 2], random: &mut Random) -> Value {
        let skipped = |random: &mut Random, p: f64| random.between(0.0, 1.0) >= p;
        match *self {
            Self::Resize { size, .. } => json!(size),
            Self::CenterCrop { .. } => Value::Null,
            Self::RandomCrop { size } => {
                let offset = |side: usize, random: &mut Random| {
                    random.below((sides[side] + 1).saturating_sub(size[side]).max(1))
                };
                json!([offset(0, random), offset(1, random)])
            }
            Self::ResizedCrop { scale, ratio, .. } => json!(random_part(sides, scale, ratio, random)),
            Self::Flip { p } => json!(!skipped(random, p)),
            Self::RandAugment { p, ops, bin, bins } => {
                if skipped(random, p) {
                    return Value::Null;
                }
                let ops = (0..ops).map(|_| Op::random(random, bin, bins, [sides[1], sides[0]]));
                json!(ops.collect::<Vec<_>>())
            }
            Self::Erase { p, scale, ratio } => {
                if skipped(random, p) {
                    return Value::Null;
                }
                json!(random_part(sides, scale, ratio, random))
            }
        }
    }
}

/// Top, left, height and width of a part with a share and proportions from these ranges; all of a picture that is too
/// long for it.
fn random_part(
    [height, width]: [usize; 2],
    scale: [f64; 2],
    ratio: [f64; 2],
    random: &mut Random,
) -> [usize; 4] {
    let area = (height * width) as f64;
    for _ in 0..10 {
        let part = area * random.between(scale[0], scale[1]);
        let ratio = random.between(ratio[0].ln(), ratio[1].ln()).exp();
        let (w, h) = ((part * ratio).sqrt().round() as usize, (part / ratio).sqrt().round() as usize);
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            return [random.below(height - h + 1), random.below(width - w + 1), h, w];
        }
    }
    let (mut h, mut w) = (height, width);
    let found = width as f64 / height as f64;
    if found < ratio[0] {
        h = ((width as f64 / ratio[0]).round() as usize).clamp(1, height);
    } else if found > ratio[1] {
        w = ((height as f64 * ratio[1]).round() as usize).clamp(1, width);
    }
    [(height - h) / 2, (width - w) / 2, h, w]
}

fn numbers<const N: usize>(parameters: &Value, of: &str) -> Result<[usize; N], String> {
    let list: Vec<usize> = serde_json::from_value(parameters.clone()).map_err(|e| format!("{of}: {e}"))?;
    <[usize; N]>::try_from(list).map_err(|list| format!("{of} takes {N} numbers, not {}", list.len()))
}

/// A part by its top, left, height and width.
fn cropped(image: &Rgb8, [top, left, height, width]: [usize; 4]) -> Result<Rgb8, String> {
    let inside = |begin: usize, length: usize, side: usize| {
        length > 0 && begin.checked_add(length).is_some_and(|end| end <= side)
    };
    if !inside(top, height, image.height) || !inside(left, width, image.width) {
        let (w, h) = (image.width, image.height);
        return Err(format!(
            "a part of {width}x{height} at {left},{top} of a picture of {w}x{h}; is it another picture?"
        ));
    }
    let row = |y: usize| &image.pixels[3 * (y * image.width + left)..][..3 * width];
    Ok(Rgb8 { height, width, pixels: (top..top + height).flat_map(row).copied().collect() })
}

fn flipped(image: &Rgb8) -> Rgb8 {
    let rows = image.pixels.chunks_exact(3 * image.width);
    let pixels = rows.flat_map(|row| row.as_chunks::<3>().0.iter().rev().flatten()).copied().collect();
    Rgb8 { pixels, ..*image }
}

/// torchvision's `Resize`: one number is the shorter side's.
fn resized(image: Rgb8, size: Size, filter: Filter) -> Result<Rgb8, String> {
    let (height, width) = (image.height, image.width);
    let [to_height, to_width] = match size {
        Size::Both(both) => both,
        Size::Shorter(size) => {
            let scaled = |long: usize, short: usize| ((size * long) as f64 / short as f64) as usize;
            if width <= height { [scaled(height, width), size] } else { [size, scaled(width, height)] }
        }
    };
    if to_height.max(to_width) > MOST_PIXELS {
        return Err(format!("a picture of {width}x{height} would become {to_width}x{to_height}"));
    }
    Ok(if [to_height, to_width] == [height, width] {
        image
    } else {
        resize(&image, to_height, to_width, filter)
    })
}

/// A part made black: top, left, height, width; nothing where the top is -1.
fn erase(mut image: Rgb8, parameters: &Value) -> Result<Rgb8, String> {
    if parameters.get(0).and_then(Value::as_i64) == Some(-1) {
        return Ok(image);
    }
    let [top, left, height, width] = numbers::<4>(parameters, "random_erase")?;
    let to = |begin: usize, length: usize, side: usize| begin.saturating_add(length).min(side);
    let columns = left.min(image.width)..to(left, width, image.width);
    for y in top..to(top, height, image.height) {
        let row = &mut image.pixels[3 * y * image.width..][..3 * image.width];
        row[3 * columns.start..3 * columns.end].fill(0);
    }
    Ok(image)
}

/// Python's `round(excess / 2)`.
fn half_to_even(excess: usize) -> usize {
    (excess as f64 / 2.0).round_ties_even() as usize
}

fn filter(name: Option<&str>) -> Result<Filter, String> {
    match name {
        None | Some("bilinear") => Ok(Filter::Bilinear),
        Some("bicubic" | "cubic") => Ok(Filter::Bicubic),
        Some(other) => Err(format!("pictures are resized bilinear or bicubic, not {other:?}")),
    }
}

fn filter_name(filter: Filter) -> Option<String> {
    Some(if filter == Filter::Bicubic { "bicubic" } else { "bilinear" }.to_owned())
}

fn both(size: Size) -> [usize; 2] {
    match size {
        Size::Both(both) => both,
        Size::Shorter(size) => [size; 2],
    }
}

impl TryFrom<Settings> for Augmentation {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        let mut steps = Vec::new();
        let on = |settings: Option<SizeSettings>| settings.filter(|settings| settings.enable);
        for mixing in [&settings.mixup, &settings.cutmix] {
            if mixing.as_ref().is_some_and(|switch| switch.enable) {
                return Err("mixup and cutmix of stored augmentations are not supported".into());
            }
        }
        if let Some(SizeSettings { size, interpolation, .. }) = on(settings.resize) {
            steps.push(Step::Resize { size, filter: filter(interpolation.as_deref())? });
        }
        if let Some(SizeSettings { size, .. }) = on(settings.center_crop) {
            steps.push(Step::CenterCrop { size: both(size) });
        }
        if let Some(SizeSettings { size, .. }) = on(settings.random_crop) {
            steps.push(Step::RandomCrop { size: both(size) });
        }
        if let Some(SizeSettings { size, interpolation, scale, ratio, .. }) = on(settings.random_resized_crop)
        {
            steps.push(Step::ResizedCrop {
                size: both(size),
                filter: filter(interpolation.as_deref())?,
                scale: scale.unwrap_or([0.08, 1.0]),
                ratio: ratio.unwrap_or([3.0 / 4.0, 4.0 / 3.0]),
            });
        }
        if let Some(FlipSettings { p, .. }) = settings.random_horizontal_flip.filter(|s| s.enable) {
            steps.push(Step::Flip { p });
        }
        if let Some(augment) = settings.rand_augment.filter(|s| s.enable) {
            if augment.interpolation.as_deref().is_some_and(|name| name != "nearest") {
                return Err(
                    "RandAugment takes the nearest pixel; other interpolations are not supported".into()
                );
            }
            let RandAugmentSettings { p, num_ops: ops, magnitude: bin, num_magnitude_bins: bins, .. } =
                augment;
            if ops > MOST_OPS || bin >= bins {
                return Err(format!("RandAugment of {ops} operations, magnitude {bin} of {bins}"));
            }
            steps.push(Step::RandAugment { p, ops, bin, bins });
        }
        if let Some(EraseSettings { p, scale, ratio, .. }) = settings.random_erase.filter(|s| s.enable) {
            steps.push(Step::Erase { p, scale, ratio });
        }
        for step in &steps {
            step.check()?;
        }
        let normalize = settings.normalize.filter(|s| s.enable);
        let (mean, std) = normalize.map_or(([0.0; 3], [1.0; 3]), |n| (n.mean, n.std));
        if std.iter().any(|&s| s.is_nan() || s <= 0.0) {
            return Err(format!("a standard deviation of {std:?}"));
        }
        Ok(Self { steps, mean, std })
    }
}

impl Step {
    /// Whether its numbers can be worked with.
    fn check(&self) -> Result<(), String> {
        let ranges = |scale: &[f64; 2], ratio: &[f64; 2]| {
            let rises = |range: &[f64; 2]| range[0] > 0.0 && range[0] <= range[1] && range[1].is_finite();
            rises(scale) && rises(ratio)
        };
        let sides = |size: &[usize; 2]| size.iter().all(|side| (1..=MOST_PIXELS).contains(side));
        let good = match self {
            Self::Resize { size, .. } => sides(&both(*size)),
            Self::CenterCrop { size } | Self::RandomCrop { size } => sides(size),
            Self::ResizedCrop { size, scale, ratio, .. } => sides(size) && ranges(scale, ratio),
            Self::Erase { scale, ratio, .. } => ranges(scale, ratio),
            Self::Flip { .. } | Self::RandAugment { .. } => true,
        };
        if good { Ok(()) } else { Err(format!("augmentations cannot be {self:?}")) }
    }
}

impl From<Augmentation> for Settings {
    fn from(augmentation: Augmentation) -> Self {
        let mut settings = Self::default();
        let enable = true;
        let sized = |size, filter: Option<Filter>| SizeSettings {
            enable,
            size,
            interpolation: filter.and_then(filter_name),
            scale: None,
            ratio: None,
        };
        for step in augmentation.steps {
            match step {
                Step::Resize { size, filter } => settings.resize = Some(sized(size, Some(filter))),
                Step::CenterCrop { size } => settings.center_crop = Some(sized(Size::Both(size), None)),
                Step::RandomCrop { size } => settings.random_crop = Some(sized(Size::Both(size), None)),
                Step::ResizedCrop { size, filter, scale, ratio } => {
                    let sized = sized(Size::Both(size), Some(filter));
                    settings.random_resized_crop =
                        Some(SizeSettings { scale: Some(scale), ratio: Some(ratio), ..sized });
                }
                Step::Flip { p } => settings.random_horizontal_flip = Some(FlipSettings { enable, p }),
                Step::RandAugment { p, ops, bin, bins } => {
                    settings.rand_augment = Some(RandAugmentSettings {
                        enable,
                        p,
                        num_ops: ops,
                        magnitude: bin,
                        num_magnitude_bins: bins,
                        interpolation: None,
                    });
                }
                Step::Erase { p, scale, ratio } => {
                    settings.random_erase = Some(EraseSettings { enable, p, scale, ratio });
                }
            }
        }
        let (mean, std) = (augmentation.mean, augmentation.std);
        settings.normalize = Some(NormalizeSettings { enable, mean, std });
        settings
    }
}
