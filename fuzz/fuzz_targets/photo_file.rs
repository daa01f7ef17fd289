//! What a photo's file says about it, and where a raw file keeps its preview: never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = ocelli_image::PhotoMetadata::read(data);
    if let Some(preview) = ocelli_image::raw_preview(data) {
        assert!(!preview.jpeg.is_empty());
    }
});
