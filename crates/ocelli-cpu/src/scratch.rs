//! Each thread's working memory for staged rows, hidden rows and scores; it grows and stays.

use std::cell::RefCell;

use crate::buffer::Buffer;

thread_local! {
    static SCRATCH: RefCell<Option<Buffer>> = const { RefCell::new(None) };
}

/// Call `f` with a pointer to at least `len` f32 values, aligned to a cache line, contents arbitrary.
/// A nested call gets memory of its own.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(*mut f32) -> R) -> R {
    let bytes = len * size_of::<f32>();
    let mut buffer = match SCRATCH.take() {
        Some(buffer) if buffer.len() >= bytes => buffer,
        _ => Buffer::zeroed(bytes.next_power_of_two()),
    };
    let result = f(buffer.as_mut_ptr().cast());
    SCRATCH.set(Some(buffer));
    result
}
