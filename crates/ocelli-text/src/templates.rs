//! Sentences that a label is put into before it is embedded: the mean over several sentences makes a
//! better classifier than one.
//!
//! Both ensembles were published with CLIP for ImageNet (openai/CLIP, `notebooks/` "Prompt Engineering
//! for ImageNet", MIT licence; Radford et al. 2021, <https://arxiv.org/abs/2103.00020>, section 3.1.4).
//! Odd articles ("a origami") are theirs.

/// Stands for the label in a template.
pub const PLACE: &str = "{}";

/// The seven templates that do nearly as well as all eighty.
pub const fn seven() -> &'static [&'static str; 7] {
    &SEVEN
}

/// The eighty templates of CLIP's published results, in their order.
pub const fn eighty() -> &'static [&'static str; 80] {
    &EIGHTY
}

/// Returns `template` with `label` in each place of `{}`; a template without one is followed by the label.
pub fn fill(template: &str, label: &str) -> String {
    if template.contains(PLACE) { template.replace(PLACE, label) } else { format!("{template} {label}") }
}

const SEVEN: [&str; 7] = [
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
];

const EIGHTY: [&str; 80] = [
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_template_has_one_place_and_is_there_once() {
        for templates in [&seven()[..], &eighty()[..]] {
            assert!(templates.iter().all(|template| template.matches(PLACE).count() == 1));
            assert_eq!(templates.iter().collect::<HashSet<_>>().len(), templates.len());
        }
        assert!(seven().iter().all(|template| eighty().contains(template)));
    }

    #[test]
    fn fills_in_the_label() {
        assert_eq!(fill("a photo of a {}.", "red panda"), "a photo of a red panda.");
        assert_eq!(fill("my", "cat"), "my cat");
    }
}
