//! Reinforced data sets: each picture with stored augmentations, captions real and synthetic, and what several teachers
//! said about all of them.
//!
//! MobileCLIP (arXiv 2311.17049, section 3); layout of DataCompDR and DFNDR: <https://huggingface.co/datasets/apple/DataCompDR-12M>,
//! reader `preprocess_dr` of `apple/ml-mobileclip`, `training/open_clip_v2.patch` at 4144bb1. `text_emb` has a row for
//! each caption; synthetic captions have theirs in `<key>_emb`, or in files of the first kind behind the real ones.

use std::collections::BTreeMap;

use ocelli_image::{DecodeOptions, Orientation, Rgb8, decode};
use ocelli_text::ClipTokenizer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::embeddings::{Rows, read_npz, read_pth_gz};
use super::pairs::{Pair, Pairs, TeacherRows};
use super::shards::{Member, Members, Shards};
use super::{Augmentation, Recipe};
use crate::random::Random;

/// What every kind of synthetic captions begins with.
const SYNTHETIC: &str = "syn_text";

/// A sample as it is stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its file and key.
    pub name: String,
    /// The picture, decoded as it lies in the file.
    pub image: Rgb8,
    /// Its caption.
    pub caption: String,
    /// Synthetic captions by the name of their kind.
    pub synthetic: BTreeMap<String, Vec<String>>,
    /// Stored augmentations.
    pub augmentations: Vec<Value>,
    /// Teachers' rows by the names of their arrays; empty if none are stored.
    pub embeddings: BTreeMap<String, Rows>,
}

#[derive(Deserialize)]
struct Augmentations {
    param_aug: Value,
}

impl Stored {
    /// From the bytes of its members; embeddings only if they are wanted.
    ///
    /// # Errors
    /// When a member is missing or damaged.
    pub fn parse(members: &Members, with_embeddings: bool) -> Result<Self, String> {
        let name = members.name.clone();
        let fail = |reason: String| format!("{name}: {reason}");
        let get = |member| members.bytes.get(&member);
        let image = get(Member::Image).ok_or_else(|| fail("it has no picture".into()))?;
        // Pictures were not turned upright when the teachers saw them.
        let options = DecodeOptions { orientation: Orientation::Ignore, ..DecodeOptions::default() };
        let image = decode(image, &options).map_err(|e| fail(e.to_string()))?;
        let caption = get(Member::Caption).ok_or_else(|| fail("it has no caption".into()))?;
        let caption =
            String::from_utf8(caption.clone()).map_err(|_| fail("its caption is not UTF-8".into()))?;
        let synthetic =
            get(Member::Synthetic).map_or(Ok(BTreeMap::new()), |json| synthetic(json)).map_err(fail)?;
        let augmentations = get(Member::Augmentations).map_or(Ok(Vec::new()), |json| augmentations(json));
        let embeddings = match (with_embeddings, get(Member::Npz), get(Member::PthGz)) {
            (false, ..) | (_, None, None) => Ok(BTreeMap::new()),
            // Of two, the more exact one.
            (_, Some(npz), _) => read_npz(npz),
            (_, _, Some(pth)) => read_pth_gz(pth),
        };
        let (augmentations, embeddings) = (augmentations.map_err(fail)?, embeddings.map_err(fail)?);
        Ok(Self { name, image, caption, synthetic, augmentations, embeddings })
    }

    /// The teachers' rows for an augmentation, the caption and a synthetic caption.
    ///
    /// # Errors
    /// When one is missing or of other than `columns` values.
    fn rows(
        &self,
        augmentation: usize,
        synthetic: Option<(&str, usize)>,
        columns: usize,
    ) -> Result<TeacherRows, String> {
        let row = |array: &str, index: usize| {
            let rows =
                self.embeddings.get(array).ok_or_else(|| format!("the teachers' {array} is missing"))?;
            if rows.columns != columns {
                let found = rows.columns;
                return Err(format!(
                    "{array} has {found} values a row; all teachers together have {columns}"
                ));
            }
            let row = rows.row(index).ok_or_else(|| format!("{array} has no row {index}"))?;
            match row.iter().all(|value| value.is_finite()) {
                true => Ok(row.to_vec()),
                false => Err(format!("row {index} of {array} is not of numbers")),
            }
        };
        let of_synthetic = |(kind, index): (&str, usize)| {
            let behind = self.embeddings.get("text_emb").is_some_and(|rows| rows.len() > 1);
            if behind { row("text_emb", 1 + index) } else { row(&format!("{kind}_emb"), index) }
        };
        Ok(TeacherRows {
            image: row("image_emb", augmentation)?,
            text: row("text_emb", 0)?,
            synthetic: synthetic.map(of_synthetic).transpose()?,
        })
    }
}

fn synthetic(json: &[u8]) -> Result<BTreeMap<String, Vec<String>>, String> {
    let all: BTreeMap<String, Value> = serde_json::from_slice(json).map_err(|e| format!("syn.json: {e}"))?;
    let kinds = all.into_iter().filter(|(kind, _)| kind.starts_with(SYNTHETIC) && !kind.ends_with("_emb"));
    let captions = |(kind, value): (String, Value)| {
        let captions = serde_json::from_value(value).map_err(|e| format!("syn.json: {kind}: {e}"))?;
        Ok((kind, captions))
    };
    kinds.map(captions).collect()
}

/// The list of stored augmentations; in some files it is the text of one.
fn augmentations(json: &[u8]) -> Result<Vec<Value>, String> {
    let failed = |e: serde_json::Error| format!("paug.json: {e}");
    let Augmentations { param_aug } = serde_json::from_slice(json).map_err(failed)?;
    match param_aug {
        Value::Array(list) => Ok(list),
        Value::String(text) => serde_json::from_str(&text).map_err(failed),
        _ => Err("paug.json: param_aug is no list".into()),
    }
}

/// Samples of a reinforced data set for a network.
pub struct Reinforced {
    shards: Shards,
    augmentation: Augmentation,
    recipe: Recipe,
    tokenizer: ClipTokenizer,
    take: Take,
}

/// What is taken of a reinforced data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Take {
    /// Pictures and their captions only, changed as chance has it: for losses without teachers.
    Pairs,
    /// What the teachers saw and said.
    Teachers {
        /// Values of all teachers together.
        columns: usize,
        /// Their synthetic captions.
        synthetic: Synthetic,
    },
}

/// Which synthetic captions are taken.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synthetic {
    /// None.
    None,
    /// Those of any kind that a sample has.
    #[default]
    Any,
    /// Those of this kind, as `syn_text_dfn_mscoco38k`.
    Kind(String),
}

impl Reinforced {
    /// The samples of `shards`. `augmentation` is that of the data set.
    pub fn new(
        shards: Shards,
        augmentation: Augmentation,
        recipe: Recipe,
        tokenizer: ClipTokenizer,
        take: Take,
    ) -> Self {
        let augmentation = augmentation.for_network(recipe.size, recipe.mean, recipe.std);
        Self { shards, augmentation, recipe, tokenizer, take }
    }

    fn sample(&self, stored: &Stored, draw: u64) -> Result<Pair, String> {
        let mut random = Random::of(&[draw]);
        let ids = |text: &str| self.recipe.ids(&self.tokenizer, text);
        let Take::Teachers { columns, synthetic } = &self.take else {
            let (_, image) = self.augmentation.draw(&stored.image, &mut random)?;
            let pixels = self.recipe.pixels(&self.augmentation, &image)?;
            return Ok(Pair { pixels, text: ids(&stored.caption), synthetic: None, teachers: None });
        };
        if stored.augmentations.is_empty() {
            return Err("it has no stored augmentation".into());
        }
        let augmentation = random.below(stored.augmentations.len());
        let image = self.augmentation.replay(&stored.image, &stored.augmentations[augmentation])?;
        let chosen = choose(&stored.synthetic, synthetic, &mut random)?;
        let texts = chosen.map(|(kind, index)| &stored.synthetic[kind][index]);
        Ok(Pair {
            pixels: self.recipe.pixels(&self.augmentation, &image)?,
            text: ids(&stored.caption),
            synthetic: texts.map(|text| ids(text)),
            teachers: Some(stored.rows(augmentation, chosen, *columns)?),
        })
    }
}

/// A kind of synthetic captions and one of them; none if none is wanted.
fn choose<'a>(
    captions: &'a BTreeMap<String, Vec<String>>,
    wanted: &Synthetic,
    random: &mut Random,
) -> Result<Option<(&'a str, usize)>, String> {
    let (name, wanted) = match wanted {
        Synthetic::None => return Ok(None),
        Synthetic::Any => ("", None),
        Synthetic::Kind(kind) => (kind.as_str(), Some(kind)),
    };
    let kinds = captions
        .iter()
        .filter(|(kind, texts)| wanted.is_none_or(|wanted| wanted == *kind) && !texts.is_empty());
    let kinds: Vec<_> = kinds.collect();
    if kinds.is_empty() {
        return Err(format!("it has no synthetic captions {name}").trim_end().to_owned());
    }
    let (kind, texts) = kinds[random.below(kinds.len())];
    Ok(Some((kind, random.below(texts.len()))))
}

impl Pairs for Reinforced {
    fn count(&self) -> usize {
        self.shards.len()
    }

    fn pair(&self, index: usize, draw: u64) -> Result<Pair, String> {
        let members = self.shards.read(index)?;
        let stored = Stored::parse(&members, self.take != Take::Pairs)?;
        self.sample(&stored, draw).map_err(|reason| format!("{}: {reason}", stored.name))
    }
}
