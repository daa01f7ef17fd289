//! What a FastViT tower is made of, found from its keys: stages, blocks, and which of the optional parts.

use crate::error::LoadError;
use crate::family::Tower;
use crate::names::{MOBILE_ONE, Row, Style, When, fastvit};
use crate::shards::TensorFiles;

/// More than any network has; keeps a hostile index from asking for billions of modules.
const MAX_STAGES: usize = 16;
const MAX_BLOCKS: usize = 1024;

/// Structure of a tower.
#[derive(Debug, Clone)]
pub(crate) struct FastVit {
    pub(crate) tower: Tower,
    pub(crate) stages: Vec<Stage>,
    /// Training form with 1x1 branches in the stem.
    pub(crate) stem_scale: bool,
    /// Squeeze-excite in the downsamples of stages 2 and up.
    pub(crate) downsample_se: bool,
    /// BatchNorm, not layer norm, before attention.
    pub(crate) batch_norm: bool,
}

/// Structure of a stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) blocks: usize,
    pub(crate) attention: bool,
    /// Places in Apple's flat list.
    pub(crate) blocks_at: usize,
    pub(crate) down_at: usize,
    pub(crate) cpe_at: usize,
}

impl FastVit {
    pub(crate) fn infer(files: &TensorFiles, tower: Tower) -> Result<Self, LoadError> {
        let stages = match tower.style {
            Style::Timm => timm_stages(files, tower.prefix)?,
            Style::Apple | Style::Mlx => apple_stages(files, tower.prefix)?,
        };
        let under = |prefix: &str| files.names_under(tower.prefix).any(|name| name.contains(prefix));
        let scale = format!(".{}.", MOBILE_ONE[1].name(tower.style));
        let stem_scale = fastvit::STEM.iter().any(|row| {
            let module = format!("{}{}.", tower.prefix, row.name(tower.style));
            files.names_under(&module).any(|name| name.contains(&scale))
        });
        let statistics = [".norm.running_mean", ".norm.running_var"];
        let batch_norm =
            files.names_under(tower.prefix).any(|name| statistics.iter().any(|end| name.ends_with(end)));
        Ok(Self { tower, stages, stem_scale, downsample_se: under(".proj.0.se."), batch_norm })
    }

    /// The rows of the name table that apply, each with its stage and block, the head excepted.
    pub(crate) fn rows(&self) -> Vec<(&'static Row, usize, usize)> {
        let mut rows: Vec<_> = fastvit::STEM.iter().map(|row| (row, 0, 0)).collect();
        for (s, stage) in self.stages.iter().enumerate() {
            let applying = |row: &&Row| self.applies(row.when, s, stage);
            rows.extend(fastvit::STAGE.iter().filter(applying).map(|row| (row, s, 0)));
            for b in 0..stage.blocks {
                rows.extend(fastvit::BLOCK.iter().filter(applying).map(|row| (row, s, b)));
            }
        }
        rows
    }

    fn applies(&self, when: When, s: usize, stage: &Stage) -> bool {
        match when {
            When::Always => true,
            When::Downsample => s > 0,
            When::DownsampleSe => s > 1 && self.downsample_se,
            When::RepMixer => !stage.attention,
            When::Attention => stage.attention,
            When::LayerNorm => stage.attention && !self.batch_norm,
            When::BatchNorm => stage.attention && self.batch_norm,
            When::LastStage => s + 1 == self.stages.len(),
        }
    }

    /// A name of the table with the placeholders of a stage and a block filled in.
    pub(crate) fn place(&self, name: &str, s: usize, b: usize) -> String {
        let stage = &self.stages[s];
        name.replace("{s}", &s.to_string())
            .replace("{b}", &b.to_string())
            .replace("{blocks}", &stage.blocks_at.to_string())
            .replace("{down}", &stage.down_at.to_string())
            .replace("{cpe}", &stage.cpe_at.to_string())
    }
}

/// `stages.S.blocks.B.…`
fn timm_stages(files: &TensorFiles, prefix: &str) -> Result<Vec<Stage>, LoadError> {
    let prefix = format!("{prefix}stages.");
    let mut stages: Vec<Stage> = Vec::new();
    for name in files.names_under(&prefix) {
        let Some((s, rest)) = leading_index(&name[prefix.len()..]) else { continue };
        if s >= MAX_STAGES {
            return Err(structure(format!("`{name}` is in stage {s}; at most {MAX_STAGES} are possible")));
        }
        stages.resize(stages.len().max(s + 1), Stage::default());
        if let Some(block) = rest.strip_prefix("blocks.") {
            add_block(&mut stages[s], name, block)?;
        }
    }
    check_blocks(stages)
}

/// What an entry of Apple's flat list is.
enum Entry {
    Blocks(Stage),
    Downsample,
    Cpe,
}

/// `network.K.…`: lists of blocks, with a downsample and perhaps a positional encoding between two of them.
fn apple_stages(files: &TensorFiles, prefix: &str) -> Result<Vec<Stage>, LoadError> {
    let mut stages = vec![Stage::default()];
    for (at, entry) in apple_entries(files, prefix)?.into_iter().enumerate() {
        let count = stages.len();
        let Some(stage) = stages.last_mut() else { break };
        match entry {
            None => return Err(structure(format!("there are no tensors `{prefix}network.{at}.*`"))),
            Some(Entry::Downsample) if count == MAX_STAGES => {
                return Err(structure(format!("at most {MAX_STAGES} stages are possible")));
            }
            Some(Entry::Downsample) => stages.push(Stage { down_at: at, ..Stage::default() }),
            Some(Entry::Cpe) => stage.cpe_at = at,
            Some(Entry::Blocks(_)) if stage.blocks > 0 => {
                return Err(structure(format!(
                    "`network.{at}` and `network.{}` are both lists of blocks, with no downsample between",
                    stage.blocks_at
                )));
            }
            Some(Entry::Blocks(found)) => {
                (stage.blocks, stage.attention, stage.blocks_at) = (found.blocks, found.attention, at);
            }
        }
    }
    check_blocks(stages)
}

fn apple_entries(files: &TensorFiles, prefix: &str) -> Result<Vec<Option<Entry>>, LoadError> {
    let prefix = format!("{prefix}network.");
    let mut entries: Vec<Option<Entry>> = Vec::new();
    for name in files.names_under(&prefix) {
        let Some((at, rest)) = leading_index(&name[prefix.len()..]) else { continue };
        if at >= 3 * MAX_STAGES {
            return Err(structure(format!(
                "`{name}` is at place {at}; at most {} are possible",
                3 * MAX_STAGES
            )));
        }
        while entries.len() <= at {
            entries.push(None);
        }
        let entry = entries[at].get_or_insert_with(|| {
            if rest.starts_with("proj.") {
                Entry::Downsample
            } else if leading_index(rest).is_some() {
                Entry::Blocks(Stage::default())
            } else {
                Entry::Cpe
            }
        });
        if let Entry::Blocks(stage) = entry {
            add_block(stage, name, rest)?;
        }
    }
    Ok(entries)
}

/// Take notice of `B.…` in a list of blocks.
fn add_block(stage: &mut Stage, name: &str, rest: &str) -> Result<(), LoadError> {
    let Some((b, rest)) = leading_index(rest) else { return Ok(()) };
    if b >= MAX_BLOCKS {
        return Err(structure(format!("`{name}` is in block {b}; at most {MAX_BLOCKS} are possible")));
    }
    stage.blocks = stage.blocks.max(b + 1);
    stage.attention |= fastvit::ATTENTION_KEYS.iter().any(|key| rest.starts_with(key));
    Ok(())
}

fn check_blocks(stages: Vec<Stage>) -> Result<Vec<Stage>, LoadError> {
    match stages.iter().position(|stage| stage.blocks == 0) {
        Some(s) => Err(structure(format!("stage {s} has no blocks"))),
        None if stages.is_empty() => Err(structure("it has no stages".to_owned())),
        None => Ok(stages),
    }
}

/// `12.rest` to `(12, "rest")`.
pub(crate) fn leading_index(name: &str) -> Option<(usize, &str)> {
    let (index, rest) = name.split_once('.')?;
    let digits = !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit());
    // An index too large for a usize is as wrong as the largest one.
    digits.then(|| (index.parse().unwrap_or(usize::MAX), rest))
}

fn structure(reason: String) -> LoadError {
    LoadError::Structure { reason }
}
