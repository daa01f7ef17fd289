//! Files cut short and files with wrong bytes: an error or the whole picture, never a part, no panic.

mod common;

use common::{Random, name, pictures};
use ocelli_image::{DecodeOptions, ImageError, decode};

fn all() -> Vec<std::path::PathBuf> {
    [pictures("images"), pictures("image-cases")].concat()
}

/// A cut is harmless only in what comes after the picture: a GIF's later frames and trailer, a TIFF's
/// later pages, padding.
#[test]
fn a_file_cut_anywhere_is_an_error_or_whole() {
    for path in all() {
        let bytes = std::fs::read(&path).unwrap();
        let whole = decode(&bytes, &DecodeOptions::default()).unwrap();
        let step = (bytes.len() / 300).max(1);
        let last = bytes.len().saturating_sub(40);
        for length in (0..last).step_by(step).chain(last..bytes.len()) {
            if let Ok(picture) = decode(&bytes[..length], &DecodeOptions::default()) {
                assert!(picture == whole, "{} cut to {length} of {}", name(&path), bytes.len());
            }
        }
    }
}

#[test]
fn a_file_cut_in_half_is_called_cut_short() {
    for path in pictures("images") {
        let bytes = std::fs::read(&path).unwrap();
        let error = match decode(&bytes[..bytes.len() / 2], &DecodeOptions::default()) {
            Err(error) => error,
            Ok(_) if name(&path).ends_with(".gif") => continue, // its first frame is in the first half
            Ok(_) => panic!("{} was decoded from its first half", name(&path)),
        };
        assert!(matches!(error, ImageError::Truncated { .. }), "{}: {error}", name(&path));
    }
}

/// A JPEG whose data stop early behind a proper end marker would be painted grey by libjpeg.
#[test]
fn a_jpeg_with_a_hole_is_an_error() {
    for path in all().iter().filter(|path| name(path).ends_with(".jpg")) {
        let bytes = std::fs::read(path).unwrap();
        let scan = bytes.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        let cut = scan + (bytes.len() - scan) / 2;
        if bytes.len() - scan < 100 {
            continue;
        }
        let holed = [&bytes[..cut], &[0xff, 0xd9]].concat();
        let result = decode(&holed, &DecodeOptions::default());
        if !name(path).contains("progressive") {
            assert!(result.is_err(), "{}", name(path));
        }
    }
}

#[test]
fn bytes_after_the_picture_do_not_matter() {
    for path in all() {
        let mut bytes = std::fs::read(&path).unwrap();
        let whole = decode(&bytes, &DecodeOptions::default()).unwrap();
        bytes.extend([0xff, 0xd8, 0, 1, 2, 3]);
        assert!(decode(&bytes, &DecodeOptions::default()).unwrap() == whole, "{}", name(&path));
    }
}

#[test]
fn damaged_bytes_never_panic() {
    // A small limit keeps damaged sizes from costing time.
    let options = DecodeOptions { max_pixels: 1 << 20, ..Default::default() };
    for (seed, path) in all().iter().enumerate() {
        let bytes = std::fs::read(path).unwrap();
        let mut random = Random(seed as u64 + 1);
        let rounds = std::env::var("OCELLI_DAMAGE_ROUNDS").map_or(300, |rounds| rounds.parse().unwrap());
        for round in 0..rounds {
            let mut damaged = bytes.clone();
            for _ in 0..1 + random.below(6) {
                // Headers are near the start: half of the damage goes there.
                let reach = if random.below(2) == 0 { bytes.len().min(600) } else { bytes.len() };
                let at = random.below(reach);
                match random.below(4) {
                    0 => damaged[at] = 0xff,
                    1 => damaged[at] ^= 1 << random.below(8),
                    2 => damaged[at] = 0,
                    _ => damaged[at] = random.below(256) as u8,
                }
            }
            let panicked = std::panic::catch_unwind(|| {
                let _ = decode(&damaged, &options);
            })
            .is_err();
            assert!(!panicked, "{} in round {round}", name(path));
        }
    }
}
