//! Variants of every format against Pillow's decoding, and the errors that name what is wrong.

mod common;

use std::path::Path;

use common::{answer, fixtures, max_difference, name, pictures};
use ocelli_image::{DecodeOptions, Format, ImageError, Orientation, Rgb8, decode, open};

/// Everything is exact but CMYK in TIFF, whose conversion rounds down where Pillow rounds to nearest.
fn tolerance(name: &str) -> u8 {
    if name == "cmyk.tif" { 1 } else { 0 }
}

#[test]
fn decodes_every_variant_as_pillow() {
    let mut wrong = Vec::new();
    for path in pictures("image-cases") {
        let expected = answer(&path);
        match open(&path, &DecodeOptions::default()) {
            Ok(ours) if (ours.height, ours.width) == (expected.height, expected.width) => {
                let difference = max_difference(&ours.pixels, &expected.pixels);
                if difference > tolerance(name(&path)) {
                    wrong.push(format!("{}: differs by {difference}", name(&path)));
                }
            }
            Ok(ours) => wrong.push(format!("{}: is {}x{}", name(&path), ours.width, ours.height)),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn all_orientations_show_the_same_scene() {
    let stored = DecodeOptions { orientation: Orientation::Ignore, ..Default::default() };
    let path = |n: usize| fixtures().join(format!("image-cases/orientation_{n}.jpg"));
    let plain = open(&path(1), &stored).unwrap();
    for n in 1..=8 {
        assert_eq!(open(&path(n), &stored).unwrap(), plain, "orientation {n}, not turned");
        let turned = open(&path(n), &DecodeOptions::default()).unwrap();
        let swapped = n >= 5;
        let size = if swapped { (plain.width, plain.height) } else { (plain.height, plain.width) };
        assert_eq!((turned.height, turned.width), size, "orientation {n}");
    }
}

fn written(dir: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn the_content_decides_not_the_extension() {
    let dir = tempfile::tempdir().unwrap();
    let png = std::fs::read(fixtures().join("images/six_3x2.png")).unwrap();
    let path = written(dir.path(), "really-a-png.jpg", &png);
    let picture = open(&path, &DecodeOptions::default()).unwrap();
    assert_eq!((picture.height, picture.width), (2, 3));
    assert_eq!(picture.pixels[..9], [0, 0, 0, 255, 255, 255, 255, 0, 0]);
}

#[test]
fn errors_name_the_file_and_the_cause() {
    let dir = tempfile::tempdir().unwrap();
    let message = |name: &str, bytes: &[u8]| {
        let path = written(dir.path(), name, bytes);
        let error = open(&path, &DecodeOptions::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(name), "{text}");
        text
    };
    assert!(message("empty.png", b"").contains("the file is empty"));
    let text = message("page.JPG", b"<!doctype html><html>");
    assert!(text.contains("extension is .jpg") && text.contains("HTML"), "{text}");
    assert!(message("paper.png", b"%PDF-1.7").contains("a PDF document"));
    assert!(message("notes.txt", b"hello").contains("not an image we know: the content is text"));
    assert!(message("photo.heic", b"\0\0\0\x18ftypheic....").contains("HEIC"));
    let missing = open(&dir.path().join("absent.png"), &DecodeOptions::default()).unwrap_err();
    assert!(matches!(missing, ImageError::Unreadable { .. }) && missing.to_string().contains("absent.png"));
    let folder = open(dir.path(), &DecodeOptions::default()).unwrap_err();
    assert!(matches!(folder, ImageError::Unreadable { .. }));
}

/// A 60000 x 60000 header, and the fewest bytes a decoder needs to have seen one.
fn bombs() -> Vec<(Format, Vec<u8>)> {
    let side = 60_000u32;
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend(side.to_be_bytes());
    png.extend(side.to_be_bytes());
    png.extend(b"\x08\x02\0\0\0");
    png.extend(crc32(&png[12..]).to_be_bytes());
    for kind in [b"IDAT", b"IEND"] {
        png.extend(0u32.to_be_bytes());
        png.extend(kind);
        png.extend(crc32(kind).to_be_bytes());
    }
    let short = (side as u16).to_le_bytes();
    let mut gif = b"GIF89a".to_vec();
    gif.extend([short, short].concat());
    gif.extend([0x80, 0, 0, 0, 0, 0, 255, 255, 255, b',', 0, 0, 0, 0]);
    gif.extend([short, short].concat());
    gif.extend([0, 2, 1, 0x4c, 0, b';']);

    let at = |mut bytes: Vec<u8>, place: usize, value: &[u8]| {
        bytes[place..place + value.len()].copy_from_slice(value);
        bytes
    };
    let read = |name: &str| std::fs::read(fixtures().join("image-cases").join(name)).unwrap();
    let bmp = at(read("rgb.bmp"), 18, &[side.to_le_bytes(), side.to_le_bytes()].concat());
    let jpeg = read("baseline_444.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap() + 5;
    let big = (side as u16).to_be_bytes();
    let jpeg = at(jpeg, frame, &[big, big].concat());
    vec![(Format::Png, png), (Format::Gif, gif), (Format::Bmp, bmp), (Format::Jpeg, jpeg)]
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    for (format, bytes) in bombs() {
        let error = decode(&bytes, &DecodeOptions::default()).unwrap_err();
        let ImageError::TooManyPixels { width, height, limit } = error else {
            panic!("{format}: {error}");
        };
        assert_eq!((width, height, limit), (60_000, 60_000, 178_956_970), "{format}");
        let text = error.to_string();
        for part in ["60000x60000", "3600000000", "178956970", "--max-pixels"] {
            assert!(text.contains(part), "{format}: {text}");
        }
    }
}

#[test]
fn the_limit_is_the_largest_allowed_size() {
    for folder in ["images", "image-cases"] {
        for path in pictures(folder) {
            let bytes = std::fs::read(&path).unwrap();
            let Rgb8 { height, width, .. } = decode(&bytes, &DecodeOptions::default()).unwrap();
            let allow = |max_pixels| decode(&bytes, &DecodeOptions { max_pixels, ..Default::default() });
            let pixels = (height * width) as u64;
            assert!(allow(pixels).is_ok(), "{}", name(&path));
            let refused = allow(pixels - 1);
            assert!(matches!(refused, Err(ImageError::TooManyPixels { .. })), "{}: {refused:?}", name(&path));
        }
    }
}
