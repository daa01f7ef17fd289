//! What is kept between answers: embeddings of pictures, and keys and values of the last prompt.

use crate::engine::Cache;

/// What stands at one position of the spliced sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// A token.
    Token(u32),
    /// Row `row` of the embeddings of the picture with this key.
    Image { key: u64, row: u32 },
}

/// The sequence that the cache holds.
pub(crate) struct Prefix {
    pub(crate) slots: Vec<Slot>,
    pub(crate) cache: Cache,
}

impl Prefix {
    /// Positions that `prompt` shares with the cache. The last one is always computed anew, since
    /// its logits are what generation begins with.
    pub(crate) fn shared(&self, prompt: &[Slot]) -> usize {
        let equal = self.slots.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        equal.min(prompt.len().saturating_sub(1)).min(self.cache.len())
    }
}

/// Embeddings of the last few pictures by content.
#[derive(Default)]
pub(crate) struct ImageEmbeds {
    entries: Vec<(u64, std::sync::Arc<Vec<f32>>)>,
}

impl ImageEmbeds {
    /// Pictures that are kept; one at 1024 px takes 256 rows of the hidden size.
    const KEPT: usize = 16;

    pub(crate) fn get(&mut self, key: u64) -> Option<std::sync::Arc<Vec<f32>>> {
        let at = self.entries.iter().position(|(k, _)| *k == key)?;
        let entry = self.entries.remove(at);
        let rows = entry.1.clone();
        self.entries.push(entry);
        Some(rows)
    }

    pub(crate) fn insert(&mut self, key: u64, rows: std::sync::Arc<Vec<f32>>) {
        self.entries.push((key, rows));
        if self.entries.len() > Self::KEPT {
            self.entries.remove(0);
        }
    }
}
