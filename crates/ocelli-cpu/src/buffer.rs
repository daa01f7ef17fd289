//! Memory for arenas, packed weights and caches: zeroed, aligned to huge pages when large, or part of a mapped file.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

/// Large buffers start at a multiple of this, so that the kernel can back them with huge pages.
pub(crate) const HUGE_PAGE: usize = 2 << 20;
/// Every buffer starts at a multiple of this.
pub(crate) const CACHE_LINE: usize = 64;

/// A fixed block of bytes, aligned to at least a cache line.
pub(crate) struct Buffer {
    at: NonNull<u8>,
    len: usize,
    owner: Owner,
}

/// Whose memory it is.
enum Owner {
    Heap(Layout),
    /// Pages of its own.
    Pages {
        _map: MmapMut,
    },
    /// Read only.
    File {
        _map: Arc<Mmap>,
    },
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
        let pages = if bytes < HUGE_PAGE { None } else { Self::pages(bytes) };
        if let Some(buffer) = pages {
            return buffer;
        }
        let layout =
            Layout::from_size_align(bytes.max(1), CACHE_LINE).expect("buffer size fits the address space");
        // SAFETY: the layout's size is not zero.
        let at = unsafe { alloc_zeroed(layout) };
        let Some(at) = NonNull::new(at) else { handle_alloc_error(layout) };
        Self { at, len: layout.size(), owner: Owner::Heap(layout) }
    }

    /// Fresh pages, which are huge where the system has them: an allocator writes the zeros of an aligned block before
    /// anybody can ask for them.
    fn pages(bytes: usize) -> Option<Self> {
        let mut map = MmapMut::map_anon(bytes.checked_add(HUGE_PAGE)?).ok()?;
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        let at = NonNull::from(map.get_mut(start..start + bytes)?).cast();
        // Not the rest, which would take a whole one.
        advise_huge_pages(at, bytes / HUGE_PAGE * HUGE_PAGE);
        Some(Self { at, len: bytes, owner: Owner::Pages { _map: map } })
    }

    /// Part of a mapped file; `None` when it is not in the file or not aligned to a cache line.
    pub(crate) fn mapped(map: &Arc<Mmap>, range: Range<usize>) -> Option<Self> {
        let bytes = map.get(range)?;
        let at = NonNull::from(bytes).cast::<u8>();
        let aligned = (at.as_ptr() as usize).is_multiple_of(CACHE_LINE);
        aligned.then(|| Self { at, len: bytes.len(), owner: Owner::File { _map: Arc::clone(map) } })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes that were zeroed or belong to the file.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.at.as_ptr()
    }

    /// # Panics
    /// When it is part of a file.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        assert!(!matches!(self.owner, Owner::File { .. }), "a mapped file is not written");
        self.at.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Owner::Heap(layout) = self.owner {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(self.at.as_ptr(), layout) }
        }
    }
}

/// Ask for huge pages in a range that belongs to the caller.
#[cfg(target_os = "linux")]
pub(crate) fn advise_huge_pages(at: NonNull<u8>, bytes: usize) {
    // SAFETY: the range is ours; the advice changes no contents. Refusal costs only speed.
    unsafe { libc::madvise(at.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn advise_huge_pages(_at: NonNull<u8>, _bytes: usize) {}
