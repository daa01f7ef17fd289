//! What the estimate of memory says of weights is what the networks have.

use burn::tensor::Device;
use ocelli_train::estimate::Estimate;
use ocelli_train::fit::clip::ClipFit;
use ocelli_train::nets::{ClipTextConfig, FastVitConfig, ImageTower, MobileClip, VitConfig, VitStem};
use ocelli_train::{Exchange, Form, Named, Parameter, TrainError, burn};
use ocelli_weights::{Family, Naming};

struct Count<'a> {
    naming: &'a Naming,
    values: u64,
}

impl Exchange for Count<'_> {
    fn naming(&self) -> &Naming {
        self.naming
    }

    fn tensor(&mut self, _: &str, _: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        self.values += parameter.sizes().iter().product::<usize>() as u64;
        Ok(())
    }
}

fn config(settings: &str) -> ClipFit {
    let usual = r#""batch": 4, "resolution": 64, "save_every": 3"#;
    serde_json::from_str(&format!("{{{usual}{settings}}}")).expect("settings")
}

fn text() -> ClipTextConfig {
    ClipTextConfig {
        vocab_size: 3000,
        context_length: 77,
        width: 128,
        hidden: 512,
        heads: 2,
        convolutions: vec![None; 4],
        causal: true,
        folded: false,
    }
}

#[test]
fn weights_are_counted() {
    let fast_vit = FastVitConfig::mci(&[40, 80, 160, 320], &[2, 4, 6, 2], 3);
    let vit = |stem, side: usize| {
        let positions = (64 / side).pow(2) + 1;
        ImageTower::Vit(VitConfig { width: 128, hidden: 512, layers: 4, heads: 2, positions, stem })
    };
    let form = fast_vit.form.clone();
    let towers = [
        (ImageTower::FastVit(fast_vit), Some(&form)),
        (vit(VitStem::Convs(32), 16), None),
        (vit(VitStem::Patches(14), 14), None),
    ];
    for (image, form) in towers {
        let naming = Naming::new(Family::OpenClip, form).expect("a family to train");
        let mut network = MobileClip::new(&image, &text(), 64, true, &Device::flex());
        let mut count = Count { naming: &naming, values: 0 };
        network.exchange("", &mut count).expect("counted");
        let estimate = Estimate::clip(&image, &text(), 64, &config(""));
        let share = estimate.weights as f64 / (4 * count.values) as f64;
        assert!((0.95..1.1).contains(&share), "{image:?}: {share} of what there is");
    }
}

#[test]
fn what_is_frozen_needs_less() {
    let image = ImageTower::FastVit(FastVitConfig::mci(&[40, 80, 160, 320], &[2, 4, 6, 2], 3));
    let of = |settings: &str| Estimate::clip(&image, &text(), 64, &config(settings));
    let all = of("");
    let text_only = of(r#", "learning_rates": {"image": 0.0}"#);
    assert_eq!(text_only.weights, all.weights);
    assert!(text_only.optimizer < all.optimizer && text_only.activations < all.activations / 2);
    let larger = of(r#", "accumulate": 3"#);
    assert_eq!((larger.activations, larger.optimizer), (all.activations, all.optimizer));
    assert!(larger.samples > all.samples);
}
