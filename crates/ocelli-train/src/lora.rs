//! Low-rank adapters (Hu et al., arXiv 2106.09685) for the language model: attached before training, kept as files of
//! their own in PEFT's layout, merged into the weights when a model is to be shipped.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use ocelli_weights::Naming;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::checkpoint::{self, Tensors, read_tensors, write_tensors};
use crate::layers::{LORA_A, LORA_B};
use crate::nets::FastVlm;
use crate::random::Random;
use crate::tensors::{Exchange, Form, Named, Parameter};
use crate::{TrainError, folder};

/// What PEFT puts before the names of a model's modules.
const PEFT: &str = "base_model.model.";
const ADAPTER: &str = "adapter_model.safetensors";
const ADAPTER_CONFIG: &str = "adapter_config.json";
/// What was trained beside the adapter, under LLaVA's name for it.
const OTHERS: &str = "non_lora_trainables.safetensors";

/// Linears of a layer that may have an adapter.
const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Adapters for the language model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank.
    #[serde(default = "LoraConfig::default_rank")]
    pub rank: usize,
    /// Changes are multiplied with `alpha / rank`.
    #[serde(default = "LoraConfig::default_alpha")]
    pub alpha: f32,
    /// Linears that get one; all seven of a layer if empty.
    #[serde(default)]
    pub targets: Vec<String>,
}

impl LoraConfig {
    /// LLaVA's rank.
    fn default_rank() -> usize {
        64
    }

    /// LLaVA's.
    fn default_alpha() -> f32 {
        16.0
    }

    fn targets(&self) -> Vec<&str> {
        match self.targets.is_empty() {
            true => TARGETS.to_vec(),
            false => self.targets.iter().map(String::as_str).collect(),
        }
    }

    /// # Errors
    /// When the rank is 0 or a target unknown.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |reason: String| Err(TrainError::Structure { reason });
        if self.rank == 0 {
            return wrong("an adapter has at least rank 1".into());
        }
        match self.targets.iter().find(|target| !TARGETS.contains(&target.as_str())) {
            Some(target) => {
                wrong(format!("no linear is called {target}: targets are {}", TARGETS.join(", ")))
            }
            None => Ok(()),
        }
    }
}

/// Freeze the language model and attach adapters, random ones by the seed; they change nothing yet.
///
/// # Errors
/// Those of [`LoraConfig::check`].
pub fn attach(
    network: FastVlm,
    config: &LoraConfig,
    seed: u64,
    device: &Device,
) -> Result<FastVlm, TrainError> {
    config.check()?;
    let targets = config.targets();
    let mut network = FastVlm { language: network.language.freeze(), ..network };
    let mut random = Random::new(seed);
    for (name, linear) in network.language.linears_mut() {
        if targets.contains(&name) {
            linear.attach_lora(config.rank, config.alpha, &mut random, device);
        }
    }
    Ok(network)
}

/// Make the adapters part of the weights.
pub fn merge(network: &mut FastVlm) {
    network.language.linears_mut().for_each(|(_, linear)| linear.merge_lora());
}

/// Write adapters, and beside them other tensors that were trained, by their names in the checkpoint.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn save(dir: &Path, config: &LoraConfig, base: &Path, trained: Tensors) -> Result<(), TrainError> {
    let (adapters, others): (Tensors, Tensors) =
        trained.into_iter().partition(|(name, _)| name.ends_with(LORA_A) || name.ends_with(LORA_B));
    let adapters = adapters.into_iter().map(|(name, tensor)| (format!("{PEFT}{name}"), tensor)).collect();
    write_tensors(&dir.join(ADAPTER), &adapters)?;
    write_tensors(&dir.join(OTHERS), &others)?;
    let peft = json!({
        "base_model_name_or_path": base.display().to_string(),
        "bias": "none",
        "fan_in_fan_out": false,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": config.rank,
        "target_modules": config.targets(),
        "task_type": "CAUSAL_LM",
    });
    let path = dir.join(ADAPTER_CONFIG);
    let text = serde_json::to_string_pretty(&peft).expect("JSON") + "\n";
    std::fs::write(&path, text).map_err(|source| TrainError::Write { path, source })
}

/// Whether a folder holds adapters.
pub fn is_adapter(dir: &Path) -> bool {
    dir.join(ADAPTER).is_file()
}

/// The settings in a folder of adapters.
///
/// # Errors
/// When the file cannot be read or says something else.
pub fn read_config(dir: &Path) -> Result<LoraConfig, TrainError> {
    #[derive(Deserialize)]
    struct Peft {
        r: usize,
        lora_alpha: f32,
        target_modules: Vec<String>,
    }
    let path = dir.join(ADAPTER_CONFIG);
    let read = |reason: String| TrainError::Read { path: path.clone(), reason };
    let text = std::fs::read(&path).map_err(|e| read(e.to_string()))?;
    let peft: Peft = serde_json::from_slice(&text).map_err(|e| read(e.to_string()))?;
    Ok(LoraConfig { rank: peft.r, alpha: peft.lora_alpha, targets: peft.target_modules })
}

/// Read adapters and what was trained beside them into a network to which they are attached.
///
/// # Errors
/// When a file cannot be read, or has a tensor that the network has not, or of another shape.
pub fn load(network: &mut FastVlm, naming: &Naming, dir: &Path) -> Result<(), TrainError> {
    let adapters = read_tensors(&dir.join(ADAPTER))?;
    let plain = |name: String| name.strip_prefix(PEFT).map(str::to_owned).unwrap_or(name);
    let mut tensors: Tensors = adapters.into_iter().map(|(name, tensor)| (plain(name), tensor)).collect();
    if dir.join(OTHERS).is_file() {
        tensors.extend(read_tensors(&dir.join(OTHERS))?);
    }
    let mut put = Put { naming, tensors };
    network.exchange("", &mut put)?;
    match put.tensors.keys().next() {
        Some(name) => Err(TrainError::Structure { reason: format!("no part of the network takes {name}") }),
        None => Ok(()),
    }
}

/// Write the model of a directory with these adapters merged to a new one.
///
/// # Errors
/// When something cannot be read, does not fit together, or cannot be written.
pub fn write_merged(model: &Path, adapters: &Path, to: &Path) -> Result<(), TrainError> {
    let device = Device::flex();
    let (network, _, naming) = FastVlm::open(model, &device)?;
    let mut network = attach(network, &read_config(adapters)?, 0, &device)?;
    load(&mut network, &naming, adapters)?;
    merge(&mut network);
    folder::write_whole(to, |partial| {
        folder::copy_beside_weights(model, partial)?;
        checkpoint::save(&mut network, &naming, &partial.join("model.safetensors"))
    })
}

/// Puts what it has and leaves all else.
struct Put<'a> {
    naming: &'a Naming,
    tensors: Tensors,
}

impl Exchange for Put<'_> {
    fn naming(&self) -> &Naming {
        self.naming
    }

    fn tensor(&mut self, name: &str, form: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        let Some((found, values)) = self.tensors.remove(name) else { return Ok(()) };
        let shape = parameter.sizes();
        let expected = form.stored(&shape);
        if found != expected {
            return Err(TrainError::Shape { name: name.to_owned(), expected, found });
        }
        parameter.set(form.restore(&shape, values));
        Ok(())
    }
}
