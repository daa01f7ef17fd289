//! A tower whose blocks are computed anew in the backward pass has the features, the gradients and the running statistics
//! of one that keeps everything.

mod support;

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor};
use ocelli_train::nets::{FastVit, FastVitConfig};
use ocelli_train::{Exchange, Form, Named, Parameter, TrainError, burn};
use ocelli_weights::{Family, Naming};
use support::{assert_close, input, values};

const SIZE: usize = 64;
const PICTURES: usize = 2;

type Tensors = BTreeMap<String, Vec<f32>>;

/// Sums gradients by the names of their tensors.
struct Collect<'a> {
    naming: &'a Naming,
    gradients: &'a Gradients,
    sums: &'a mut Tensors,
}

impl Exchange for Collect<'_> {
    fn naming(&self) -> &Naming {
        self.naming
    }

    fn tensor(&mut self, name: &str, _: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        let Some(gradient) = parameter.gradient(self.gradients) else { return Ok(()) };
        assert!(self.sums.insert(name.to_owned(), gradient).is_none(), "{name} has its gradient twice");
        Ok(())
    }
}

struct Read<'a> {
    naming: &'a Naming,
    tensors: Tensors,
}

impl Exchange for Read<'_> {
    fn naming(&self) -> &Naming {
        self.naming
    }

    fn tensor(&mut self, name: &str, _: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        self.tensors.insert(name.to_owned(), parameter.values());
        Ok(())
    }
}

fn tensors(tower: &mut FastVit, naming: &Naming) -> Tensors {
    let mut read = Read { naming, tensors: Tensors::new() };
    tower.exchange("vision", &mut read).expect("read");
    read.tensors
}

/// Features, gradients, and all tensors after two passes, the second one's gradients counting.
fn passes(config: &FastVitConfig, naming: &Naming, by_blocks: bool) -> (Vec<f32>, Tensors, Tensors) {
    let device = Device::flex().autodiff();
    device.seed(7);
    let mut tower = FastVit::new(config, &device);
    let (mut features, mut sums) = (Vec::new(), Tensors::new());
    for pass in 0..2 {
        sums.clear();
        let pixels: Tensor<4> = input([PICTURES, SIZE, SIZE, 3], 1 + pass, &device);
        let other = tower.clone();
        let mut take = |gradients: &Gradients| {
            let mut collect = Collect { naming, gradients, sums: &mut sums };
            tower.exchange("vision", &mut collect)
        };
        let loss = |features: Tensor<4>| {
            let weights = input(features.dims(), 5, &device);
            (features * weights).sum()
        };
        if by_blocks {
            let kept = other.forward_by_blocks(pixels);
            features = values(kept.features.clone());
            let gradients = loss(kept.features.clone()).backward();
            other.backward_by_blocks(kept, &gradients, &mut take).expect("gradients");
        } else {
            let found = other.forward(pixels);
            features = values(found.clone());
            take(&loss(found).backward()).expect("gradients");
        }
    }
    let after = tensors(&mut tower, naming);
    (features, sums, after)
}

// One test: the random numbers of all devices come from one sequence.
#[test]
fn blocks_computed_anew_change_nothing() {
    let fastvithd = FastVitConfig::fastvithd(&[8, 16, 32, 32, 64], &[1, 1, 2, 1, 1], 2);
    let mci = FastVitConfig::mci(&[8, 16, 32, 64], &[1, 1, 2, 1], 2);
    for (config, family) in [(fastvithd, Family::AppleLlava), (mci, Family::OpenClip)] {
        let naming = Naming::new(family, Some(&config.form)).expect("a family to train");
        let (features, gradients, after) = passes(&config, &naming, false);
        let (found, found_gradients, found_after) = passes(&config, &naming, true);
        assert_eq!(found, features);
        let names = |tensors: &Tensors| tensors.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found_gradients), names(&gradients));
        assert!(gradients.len() > 60);
        for (name, gradient) in &gradients {
            assert_close(name, &found_gradients[name], gradient, 1e-5);
        }
        // Running statistics have moved by two batches, not by four.
        assert_eq!(found_after, after);
        let moved = after.iter().filter(|(name, _)| name.ends_with("running_mean"));
        assert!(moved.flat_map(|(_, values)| values).any(|value| *value != 0.0));
        // A frozen tower keeps them, and has no gradients to compute.
        let frozen = FastVit::new(&config, &Device::flex().autodiff()).freeze();
        let mut before = frozen.clone();
        let before = tensors(&mut before, &naming);
        let _ = frozen.forward_by_blocks(input([PICTURES, SIZE, SIZE, 3], 1, &Device::flex().autodiff()));
        let mut frozen = frozen;
        assert_eq!(tensors(&mut frozen, &naming), before);
    }
}
