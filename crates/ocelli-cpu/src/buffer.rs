//! Memory for arenas, packed weights and caches: zeroed, aligned to huge pages when large.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Large buffers start at a multiple of this, so that the kernel can back them with huge pages.
const HUGE_PAGE: usize = 2 << 20;
/// Every buffer starts at a multiple of this.
pub(crate) const CACHE_LINE: usize = 64;

/// A fixed block of zeroed bytes, aligned to at least a cache line.
pub(crate) struct Buffer {
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the buffer owns its memory and gives it out by `&self` for reading only.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `bytes` zeroed bytes.
    ///
    /// # Panics
    /// When `bytes` is beyond the address space. Running out of memory ends the process, as for `Vec`.
    pub(crate) fn zeroed(bytes: usize) -> Self {
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { CACHE_LINE };
        let layout =
            Layout::from_size_align(bytes.max(1), align).expect("buffer size fits the address space");
        // SAFETY: the layout's size is not zero.
        let at = unsafe { alloc_zeroed(layout) };
        let Some(at) = NonNull::new(at) else { handle_alloc_error(layout) };
        advise_huge_pages(at, layout.size());
        Self { at, layout }
    }

    pub(crate) fn len(&self) -> usize {
        self.layout.size()
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.at.as_ptr()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.at.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout.
        unsafe { dealloc(self.at.as_ptr(), self.layout) }
    }
}

#[cfg(target_os = "linux")]
fn advise_huge_pages(at: NonNull<u8>, bytes: usize) {
    if bytes >= HUGE_PAGE {
        // SAFETY: the range is ours; the advice changes no contents. Refusal costs only speed.
        unsafe { libc::madvise(at.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_at: NonNull<u8>, _bytes: usize) {}
