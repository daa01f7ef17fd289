//! Byte pair encoding of one word: of all neighbours that a merge joins, the most urgent are joined first, of equally
//! urgent ones the leftmost, until none is left (Sennrich et al. 2016, <https://aclanthology.org/P16-1162>).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// By the two tokens that are joined: how urgent (0 first) and the joined token.
pub(crate) type Merges = HashMap<(u32, u32), (u32, u32)>;

/// No token: behind the last one, before the first one, or in the place of one that was joined to its left.
const NONE: u32 = u32::MAX;

/// Joins `tokens`, the ones of a word's bytes.
///
/// Candidates wait in a heap by urgency and place, so a word of `n` bytes takes `n log n` steps, however long.
pub(crate) fn join(tokens: &mut Vec<u32>, merges: &Merges) {
    let count = tokens.len() as u32;
    let mut next: Vec<u32> = (1..count).chain([NONE]).collect();
    let mut before: Vec<u32> =
        [NONE].into_iter().chain(0..count.saturating_sub(1)).take(tokens.len()).collect();
    let candidate = |tokens: &[u32], left: u32, right: u32| {
        let pair = (*tokens.get(left as usize)?, *tokens.get(right as usize)?);
        let &(rank, joined) = merges.get(&pair)?;
        Some(Reverse((rank, left, joined)))
    };
    let mut waiting: BinaryHeap<_> =
        (1..count).filter_map(|right| candidate(tokens, right - 1, right)).collect();
    while let Some(Reverse((_, left, joined))) = waiting.pop() {
        let right = next[left as usize];
        // What waited may have been joined to something else meanwhile.
        if !matches!(candidate(tokens, left, right), Some(Reverse((_, _, now))) if now == joined) {
            continue;
        }
        tokens[left as usize] = joined;
        tokens[right as usize] = NONE;
        let after = next[right as usize];
        next[left as usize] = after;
        if let Some(before) = before.get_mut(after as usize) {
            *before = left;
        }
        waiting.extend(candidate(tokens, before[left as usize], left));
        waiting.extend(candidate(tokens, left, after));
    }
    tokens.retain(|&token| token != NONE);
}
