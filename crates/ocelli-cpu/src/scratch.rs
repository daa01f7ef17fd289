//! Each thread's working memory for staged rows, hidden rows and scores; it grows and stays.

use std::cell::RefCell;

use crate::buffer::Buffer;

thread_local! {
    static SCRATCH: RefCell<Option<Buffer>> = const { RefCell::new(None) };
}

/// Working memory that goes back to its thread when dropped.
///
/// A guard, not a function that takes a closure: a closure is compiled without the instruction set
/// of the kernel around it, and every vector operation in it would become a call.
pub(crate) struct Scratch(Option<Buffer>);

impl Scratch {
    /// At least `len` f32 values, aligned to a cache line, contents arbitrary. Somebody who takes
    /// twice before giving back gets memory of their own.
    pub(crate) fn take(len: usize) -> Self {
        let bytes = len * size_of::<f32>();
        match SCRATCH.take() {
            Some(buffer) if buffer.len() >= bytes => Self(Some(buffer)),
            _ => Self(Some(Buffer::zeroed(bytes.next_power_of_two()))),
        }
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.0.as_mut().map_or(std::ptr::null_mut(), |buffer| buffer.as_mut_ptr().cast())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.set(self.0.take());
    }
}
