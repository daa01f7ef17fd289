//! Each thread's working memory for staged rows, hidden rows and scores; it grows and stays.

use std::cell::RefCell;

use crate::buffer::{Buffer, HUGE_PAGE};

/// From so many bytes on, a buffer takes a huge page: tiles read sixteen rows at a time, each in a page of its own, and
/// of small pages a core knows too few.
const MANY_PAGES: usize = 128 << 10;

thread_local! {
    /// Buffers that nobody on this thread uses, the one that was given back last on top.
    static SPARE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Working memory that goes back to its thread when dropped.
///
/// A guard, not a function that takes a closure: a closure is compiled without the instruction set
/// of the kernel around it, and every vector operation in it would become a call.
pub(crate) struct Scratch(Option<Buffer>);

impl Scratch {
    /// At least `len` f32 values, aligned to a cache line, contents arbitrary.
    pub(crate) fn take(len: usize) -> Self {
        let bytes = len * size_of::<f32>();
        let spare = SPARE.with_borrow_mut(Vec::pop);
        let buffer = spare.filter(|buffer| buffer.len() >= bytes);
        let least = if bytes < MANY_PAGES { bytes } else { HUGE_PAGE };
        Self(Some(buffer.unwrap_or_else(|| Buffer::zeroed(bytes.max(least).next_power_of_two()))))
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.0.as_mut().map_or(std::ptr::null_mut(), |buffer| buffer.as_mut_ptr().cast())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(buffer) = self.0.take() {
            SPARE.with_borrow_mut(|spare| spare.push(buffer));
        }
    }
}
