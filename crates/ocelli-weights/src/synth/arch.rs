//! The models of which a random checkpoint can be made.

use std::str::FromStr;

use serde_json::{Value, json};

use super::mobileclip::ClipLayout;
use super::tensor::{Group, SynthTensor};
use super::{fastvlm, mobileclip};

/// Field of the configuration file that says the checkpoint is random.
pub(super) const MARKER: &str = "ocelli_synth";

/// A model of which a random checkpoint can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SynthArch {
    /// Every block type once, 256 px: for tests.
    FastVlmTiny,
    /// FastVLM-0.5B.
    FastVlm05B,
    /// FastVLM-1.5B.
    FastVlm15B,
    /// FastVLM-7B.
    FastVlm7B,
    /// MobileCLIP-S0 in small: for tests.
    MobileClipTiny,
    /// MobileCLIP-S0.
    MobileClipS0,
    /// MobileCLIP-S1.
    MobileClipS1,
    /// MobileCLIP-S2.
    MobileClipS2,
    /// MobileCLIP-B.
    MobileClipB,
    /// MobileCLIP-B (LT), of the same sizes, trained for longer.
    MobileClipBlt,
    /// MobileCLIP2-S0.
    MobileClip2S0,
    /// MobileCLIP2-S2.
    MobileClip2S2,
    /// MobileCLIP2-S3.
    MobileClip2S3,
    /// MobileCLIP2-S4.
    MobileClip2S4,
    /// MobileCLIP2-B.
    MobileClip2B,
    /// MobileCLIP2-L-14.
    MobileClip2L14,
}

/// The network of a model.
enum Network {
    FastVlm(fastvlm::Sizes),
    MobileClip(mobileclip::Sizes),
}

impl SynthArch {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::FastVlmTiny,
        Self::FastVlm05B,
        Self::FastVlm15B,
        Self::FastVlm7B,
        Self::MobileClipTiny,
        Self::MobileClipS0,
        Self::MobileClipS1,
        Self::MobileClipS2,
        Self::MobileClipB,
        Self::MobileClipBlt,
        Self::MobileClip2S0,
        Self::MobileClip2S2,
        Self::MobileClip2S3,
        Self::MobileClip2S4,
        Self::MobileClip2B,
        Self::MobileClip2L14,
    ];

    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    /// Whether it is a MobileCLIP, whose tokenizer is always the same; otherwise it is a FastVLM.
    pub fn is_mobileclip(self) -> bool {
        matches!(self.network(), Network::MobileClip(_))
    }

    fn network(self) -> Network {
        self.entry().1
    }

    /// Its name and its network.
    fn entry(self) -> (&'static str, Network) {
        use Network::{FastVlm, MobileClip};
        match self {
            Self::FastVlmTiny => ("fastvlm-tiny", FastVlm(fastvlm::TINY)),
            Self::FastVlm05B => ("fastvlm-0.5b", FastVlm(fastvlm::FASTVLM_05B)),
            Self::FastVlm15B => ("fastvlm-1.5b", FastVlm(fastvlm::FASTVLM_15B)),
            Self::FastVlm7B => ("fastvlm-7b", FastVlm(fastvlm::FASTVLM_7B)),
            Self::MobileClipTiny => ("mobileclip-tiny", MobileClip(mobileclip::TINY)),
            Self::MobileClipS0 => ("mobileclip-s0", MobileClip(mobileclip::S0_V1)),
            Self::MobileClipS1 => ("mobileclip-s1", MobileClip(mobileclip::S1)),
            Self::MobileClipS2 => ("mobileclip-s2", MobileClip(mobileclip::S2)),
            Self::MobileClipB => ("mobileclip-b", MobileClip(mobileclip::B)),
            Self::MobileClipBlt => ("mobileclip-blt", MobileClip(mobileclip::B)),
            Self::MobileClip2S0 => ("mobileclip2-s0", MobileClip(mobileclip::S0)),
            Self::MobileClip2S2 => ("mobileclip2-s2", MobileClip(mobileclip::S2)),
            Self::MobileClip2S3 => ("mobileclip2-s3", MobileClip(mobileclip::S3)),
            Self::MobileClip2S4 => ("mobileclip2-s4", MobileClip(mobileclip::S4)),
            Self::MobileClip2B => ("mobileclip2-b", MobileClip(mobileclip::B)),
            Self::MobileClip2L14 => ("mobileclip2-l14", MobileClip(mobileclip::L14)),
        }
    }

    /// Every tensor of the checkpoint. Writes and allocates no weights.
    pub fn tensors(self) -> Vec<SynthTensor> {
        match self.network() {
            Network::FastVlm(sizes) => sizes.tensors(),
            Network::MobileClip(sizes) => sizes.tensors(),
        }
    }

    /// Parameters of one part, as PyTorch counts them: without running statistics.
    pub fn parameter_count(self, group: Group) -> u64 {
        let tensors = self.tensors();
        let parameters = tensors.iter().filter(|tensor| tensor.group == group && tensor.parameter);
        parameters.map(SynthTensor::len).sum()
    }

    /// The configuration files with their names. The first one is marked as that of a random checkpoint.
    pub fn configs(self, seed: u64) -> Vec<(&'static str, Value)> {
        let mark = json!({ "arch": self.name(), "seed": seed });
        match self.network() {
            Network::FastVlm(sizes) => vec![
                ("config.json", sizes.config(mark)),
                ("generation_config.json", sizes.generation_config()),
            ],
            Network::MobileClip(sizes) => match sizes.layout() {
                ClipLayout::OpenClip => vec![("open_clip_config.json", sizes.config(self.name(), mark))],
                ClipLayout::Apple => vec![("config.json", sizes.config(self.name(), mark))],
            },
        }
    }

    /// Name of the weight file without `.safetensors`.
    pub fn weight_file(self) -> &'static str {
        match self.network() {
            Network::MobileClip(sizes) if sizes.layout() == ClipLayout::OpenClip => "open_clip_model",
            _ => "model",
        }
    }
}

impl FromStr for SynthArch {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|arch| arch.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("unknown model `{name}`; known: {known}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millions(n: u64, decimals: i32) -> f64 {
        let unit = 10f64.powi(decimals);
        (n as f64 / 1e6 * unit).round() / unit
    }

    /// Printed by instantiating the modules in PyTorch (timm 1.0.31 `fastvit_mci3`, reparameterized, with the 768
    /// head; transformers' Qwen2), tied embeddings counted once.
    #[test]
    fn a_fastvlm_has_the_parameters_of_the_released_one() {
        for (arch, language) in [
            (SynthArch::FastVlm05B, 494.03),
            (SynthArch::FastVlm15B, 1543.71),
            (SynthArch::FastVlm7B, 7615.62),
        ] {
            let tower = arch.parameter_count(Group::Tower);
            assert_eq!(millions(tower, 2), 122.71);
            assert_eq!(millions(tower + arch.parameter_count(Group::Head), 2), 125.07);
            assert_eq!(millions(arch.parameter_count(Group::Language), 2), language);
        }
    }

    /// Printed likewise: timm's towers in training form with their head, open_clip's text towers. The text tower
    /// of the first S0 is that of Apple's README, whose image head has no bias.
    #[test]
    fn a_mobileclip_has_the_parameters_of_the_released_one() {
        for (arch, image, text) in [
            (SynthArch::MobileClip2S0, 11.407, 63.43),
            (SynthArch::MobileClip2S2, 35.815, 63.43),
            (SynthArch::MobileClip2S3, 125.236, 123.65),
            (SynthArch::MobileClip2S4, 321.785, 123.65),
            (SynthArch::MobileClip2B, 86.349, 63.43),
            (SynthArch::MobileClip2L14, 303.967, 123.65),
            (SynthArch::MobileClipS1, 21.542, 63.43),
            (SynthArch::MobileClipS2, 35.815, 63.43),
            (SynthArch::MobileClipB, 86.349, 63.43),
            (SynthArch::MobileClipBlt, 86.349, 63.43),
        ] {
            let tower = arch.parameter_count(Group::Tower) + arch.parameter_count(Group::Head);
            assert_eq!(millions(tower, 3), image, "{}", arch.name());
            assert_eq!(millions(arch.parameter_count(Group::Text), 2), text, "{}", arch.name());
            assert_eq!(arch.parameter_count(Group::LogitScale), 1);
        }
        let (v1, v2) = (SynthArch::MobileClipS0, SynthArch::MobileClip2S0);
        assert_eq!(millions(v1.parameter_count(Group::Text), 1), 42.4);
        assert_eq!(v1.parameter_count(Group::Tower), v2.parameter_count(Group::Tower));
        assert_eq!(v1.parameter_count(Group::Head) + 512, v2.parameter_count(Group::Head));
    }

    #[test]
    fn names_are_unique_and_read_back() {
        for arch in SynthArch::ALL {
            let names: std::collections::HashSet<String> =
                arch.tensors().into_iter().map(|t| t.name).collect();
            assert_eq!(names.len(), arch.tensors().len());
            assert_eq!(arch.name().parse(), Ok(arch));
        }
        assert!("fastvlm-3b".parse::<SynthArch>().unwrap_err().contains("fastvlm-0.5b"));
    }
}
