//! How the quantized tensors of a checkpoint are to be read: MLX codes as `config.json` "quantization" says,
//! our own blocks as "ocelli_quantization" does.

use std::collections::BTreeMap;

use ocelli_plan::BlockFormat;
use ocelli_quant::Affine;
use serde_json::Value;

use crate::error::LoadError;

/// The field of `config.json` that says that matrices are stored in our blocks.
pub(crate) const OUR_FIELD: &str = "ocelli_quantization";
/// Changes with the layout of a block.
pub(crate) const OUR_VERSION: u64 = 1;

/// The layout of a checkpoint, and of single modules where they differ.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quantization {
    default: Option<Affine>,
    /// By module name as the file has it, without `.weight`.
    modules: BTreeMap<String, Affine>,
    /// Whether matrices may be stored in our blocks.
    pub(crate) blocks: bool,
}

impl Quantization {
    /// Read what a config says.
    pub(crate) fn from_config(config: &Value) -> Result<Self, LoadError> {
        Ok(Self { blocks: has_blocks(config)?, ..Self::affine(config)? })
    }

    /// `quantization` or its twin `quantization_config`.
    fn affine(config: &Value) -> Result<Self, LoadError> {
        let Some((field, value)) = ["quantization", "quantization_config"]
            .iter()
            .find_map(|field| Some((*field, config.get(field)?)))
            .filter(|(_, value)| !value.is_null())
        else {
            return Ok(Self::default());
        };
        let default = Some(layout(field, value)?);
        let mut modules = BTreeMap::new();
        for (module, value) in value.as_object().into_iter().flatten() {
            // `false` marks a module that is not quantized; then its weight has no codes.
            if value.is_object() {
                modules.insert(module.clone(), layout(&format!("{field}.{module}"), value)?);
            }
        }
        Ok(Self { default, modules, blocks: false })
    }

    /// The layout of a module.
    pub(crate) fn of(&self, module: &str) -> Option<Affine> {
        self.modules.get(module).copied().or(self.default)
    }
}

fn has_blocks(config: &Value) -> Result<bool, LoadError> {
    let Some(ours) = config.get(OUR_FIELD) else { return Ok(false) };
    for (field, known) in [("version", OUR_VERSION), ("group_size", BlockFormat::GROUP as u64)] {
        let found = ours.get(field).unwrap_or(&Value::Null);
        if found.as_u64() != Some(known) {
            return Err(LoadError::Unsupported {
                field: format!("{OUR_FIELD}.{field}"),
                found: found.to_string(),
                supported: known.to_string(),
            });
        }
    }
    Ok(true)
}

fn layout(field: &str, value: &Value) -> Result<Affine, LoadError> {
    let unknown = |reason: String| LoadError::Quantization { tensor: format!("config.json {field}"), reason };
    if let Some(mode) = value.get("mode").or_else(|| value.get("quant_method"))
        && mode.as_str() != Some("affine")
    {
        return Err(unknown(format!("{mode}; supported: MLX affine")));
    }
    let number = |key: &str| value.get(key).and_then(Value::as_u64);
    let (bits, group_size) = (number("bits"), number("group_size"));
    let affine = bits
        .zip(group_size)
        .and_then(|(bits, group)| Affine::new(u32::try_from(bits).ok()?, usize::try_from(group).ok()?));
    affine.ok_or_else(|| {
        let show = |n: Option<u64>| n.map_or("?".to_owned(), |n| n.to_string());
        unknown(format!(
            "{} bits in groups of {}; supported: 4 or 8 bits in groups of 32 or 64",
            show(bits),
            show(group_size)
        ))
    })
}
