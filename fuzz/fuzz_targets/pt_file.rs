//! Any bytes are a PyTorch file or an error, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = ocelli_weights::parse_pt(data);
});
