//! Thumbnails that were made already, up to a number of bytes.

use std::collections::HashMap;

use axum::body::Bytes;

/// The thumbnails used last.
pub struct Kept {
    limit: usize,
    bytes: usize,
    clock: u64,
    /// By picture, with the time of the last use.
    thumbnails: HashMap<i64, (u64, Bytes)>,
}

impl Kept {
    pub fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, clock: 0, thumbnails: HashMap::new() }
    }

    pub fn get(&mut self, id: i64) -> Option<Bytes> {
        self.clock += 1;
        let (used, thumbnail) = self.thumbnails.get_mut(&id)?;
        *used = self.clock;
        Some(thumbnail.clone())
    }

    pub fn insert(&mut self, id: i64, thumbnail: Bytes) {
        self.clock += 1;
        self.bytes += thumbnail.len();
        if let Some((_, old)) = self.thumbnails.insert(id, (self.clock, thumbnail)) {
            self.bytes -= old.len();
        }
        if self.bytes > self.limit {
            self.shrink();
        }
    }

    /// Drop the older half, so that making room is rare.
    fn shrink(&mut self) {
        let mut order: Vec<(u64, i64)> = self.thumbnails.iter().map(|(&id, &(used, _))| (used, id)).collect();
        order.sort_unstable();
        for (_, id) in order {
            if self.bytes <= self.limit / 2 {
                return;
            }
            if let Some((_, thumbnail)) = self.thumbnails.remove(&id) {
                self.bytes -= thumbnail.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_the_limit_holds() {
        let mut kept = Kept::new(100);
        for id in 0..10 {
            kept.insert(id, Bytes::from(vec![0; 10]));
        }
        assert!(kept.get(0).is_some());
        kept.insert(10, Bytes::from(vec![0; 10]));
        assert!(kept.bytes <= 50, "{}", kept.bytes);
        assert!(kept.get(0).is_some() && kept.get(10).is_some());
        assert!(kept.get(1).is_none());
        kept.insert(10, Bytes::from(vec![0; 5]));
        assert_eq!(kept.bytes, kept.thumbnails.values().map(|(_, bytes)| bytes.len()).sum::<usize>());
        kept.insert(11, Bytes::from(vec![0; 500]));
        assert!(kept.bytes <= 50, "{}", kept.bytes);
    }
}
