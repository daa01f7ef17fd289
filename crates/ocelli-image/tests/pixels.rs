//! Fixture pictures against what Pillow, transformers and open_clip made of them.

mod common;

use common::{AS_STORED, chw_sha256, fixtures, json, max_difference, name, pictures};
use ocelli_image::{
    ClipPreprocess, Filter, Fit, ResizeMode, Rgb8, decode, resize_to_square, to_pixel_values,
};
use safetensors::{SafeTensors, tensor::TensorView};
use sha2::{Digest, Sha256};

struct Expected {
    bytes: Vec<u8>,
}

impl Expected {
    fn load(name: &str) -> Self {
        Self { bytes: std::fs::read(fixtures().join(name)).unwrap() }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }
}

fn floats(tensor: &TensorView<'_>) -> Vec<f32> {
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Each fixture picture without turning.
fn decoded() -> Vec<(String, Rgb8)> {
    let read = |path: &std::path::PathBuf| {
        let picture = decode(&std::fs::read(path).unwrap(), &AS_STORED).unwrap();
        (name(path).to_owned(), picture)
    };
    pictures("images").iter().map(read).collect()
}

#[test]
fn decodes_jpeg_as_pillow() {
    let expected = Expected::load("fastvlm-expected.safetensors");
    let tensors = expected.tensors();
    for (name, picture) in decoded().iter().filter(|(name, _)| name.ends_with(".jpg")) {
        let stored = tensors.tensor(&format!("decoded_rgb_u8/{name}")).unwrap();
        assert_eq!(stored.shape(), [picture.height, picture.width, 3], "{name}");
        assert_eq!(max_difference(&picture.pixels, stored.data()), 0, "{name}");
    }
}

#[test]
fn pads_and_crops_as_transformers() {
    let expected = json("fastvlm-expected.json");
    let size = expected["resolution"].as_u64().unwrap() as usize;
    for (name, picture) in decoded() {
        let info = &expected["images"][&name];
        let sha = |size, fit| chw_sha256(&resize_to_square(&picture, size, fit, Filter::Bicubic));
        if let Some(high_byte) = info.get("pad_high_byte_sha256") {
            assert_eq!(sha(size, Fit::Pad), *high_byte, "{name} padded");
            continue; // the other hashes are of Pillow's clipped, white picture
        }
        assert_eq!(sha(size, Fit::Pad), info["pad_sha256"], "{name} padded");
        let seen = whiten_transparent(&name, &picture);
        let cropped = resize_to_square(&seen, size, Fit::CropFloor, Filter::Bicubic);
        assert_eq!(chw_sha256(&cropped), info["crop_sha256"], "{name} cropped");
        if let Some(large) = info.get("pad_1024_chw_u8_sha256") {
            assert_eq!(sha(1024, Fit::Pad), *large, "{name} padded to 1024");
        }
    }
}

/// What transformers 5 does between Pillow's conversion to RGB and the resize, and we do not: Pillow
/// still notes which colour was a palette's transparent one, and transformers paints it white.
fn whiten_transparent(name: &str, picture: &Rgb8) -> Rgb8 {
    let bytes = std::fs::read(fixtures().join("images").join(name)).unwrap();
    let chunk = |kind: &[u8]| Some(bytes.windows(4).position(|window| window == kind)? + 4);
    let mut picture = picture.clone();
    let (Some(palette), Some(alpha)) = (chunk(b"PLTE"), chunk(b"tRNS")) else { return picture };
    let Some(index) = bytes[alpha..].iter().position(|alpha| *alpha == 0) else { return picture };
    let transparent = &bytes[palette + index * 3..palette + index * 3 + 3];
    for pixel in picture.pixels.chunks_exact_mut(3).filter(|pixel| *pixel == transparent) {
        pixel.fill(255);
    }
    picture
}

#[test]
fn turns_upright_before_padding() {
    let expected = json("fastvlm-expected.json");
    let size = expected["resolution"].as_u64().unwrap() as usize;
    let mut turned = 0;
    for path in pictures("images") {
        let info = &expected["images"][name(&path)];
        let picture = ocelli_image::open(&path, &Default::default()).unwrap();
        assert_eq!(info["upright_size"], serde_json::json!([picture.width, picture.height]));
        if let Some(hash) = info.get("pad_upright_sha256") {
            let ours = resize_to_square(&picture, size, Fit::Pad, Filter::Bicubic);
            assert_eq!(chw_sha256(&ours), *hash, "{}", name(&path));
            turned += 1;
        }
    }
    assert!(turned > 0);
}

#[test]
fn resizes_and_crops_as_open_clip() {
    let expected = json("mobileclip-expected.json");
    let modes = json("fastvlm-expected.json");
    for (name, picture) in decoded() {
        if modes["images"][&name]["mode"] == "I;16" {
            continue; // hashed as Pillow's clipped, white picture
        }
        for (kind, hash) in expected["pixels"][&name].as_object().unwrap() {
            let (filter, size) = kind.trim_end_matches("_sha256").split_once('_').unwrap();
            let filter = if filter == "bilinear" { Filter::Bilinear } else { Filter::Bicubic };
            let ours = resize_to_square(&picture, size.parse().unwrap(), Fit::CropRound, filter);
            assert_eq!(chw_sha256(&ours), *hash, "{name} {kind}");
        }
    }
}

#[test]
fn pixel_values_equal_torch() {
    let expected = Expected::load("fastvlm-expected.safetensors");
    let tensors = expected.tensors();
    let row = floats(&tensors.tensor("pixels_pad_f32_row96/rgb_160x120.png").unwrap());
    let picture = ocelli_image::open(&fixtures().join("images/rgb_160x120.png"), &AS_STORED).unwrap();
    let square = resize_to_square(&picture, row.len() / 3, Fit::Pad, Filter::Bicubic);
    let size = row.len() / 3;
    let ours = to_pixel_values(&square[96 * size * 3..97 * size * 3], [0.0; 3], [1.0; 3]);
    for (i, expected) in row.iter().enumerate() {
        assert_eq!(ours[i % size * 3 + i / size], *expected);
    }
}

#[test]
fn normalised_values_equal_open_clip() {
    let json = json("mobileclip-expected.json");
    let expected = Expected::load("mobileclip-expected.safetensors");
    let tensors = expected.tensors();
    let picture = ocelli_image::open(&fixtures().join("images/rgb_160x120.png"), &AS_STORED).unwrap();
    let mut checked = 0;
    for (model, info) in json["models"].as_object().unwrap() {
        let size = info["image_size"].as_u64().unwrap() as usize;
        let norm = |key: &str| {
            let values: Vec<f32> =
                info[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
            <[f32; 3]>::try_from(values).unwrap()
        };
        let filter = match info["interpolation"].as_str().unwrap() {
            "bilinear" => Filter::Bilinear,
            _ => Filter::Bicubic,
        };
        let row = size / 2;
        let key = format!("{model}/pixels_f32_row{row}/rgb_160x120.png");
        let stored = floats(&tensors.tensor(&key).unwrap());
        let square = resize_to_square(&picture, size, Fit::CropRound, filter);
        let ours = to_pixel_values(&square[row * size * 3..(row + 1) * size * 3], norm("mean"), norm("std"));
        for (i, expected) in stored.iter().enumerate() {
            assert_eq!(ours[i % size * 3 + i / size], *expected, "{model}");
        }
        checked += 1;
    }
    assert!(checked > 0);
}

/// Every fixture picture through every recipe of the MobileCLIP variants, and squashed instead of cropped.
#[test]
fn clip_preprocessing_equals_open_clip_bit_for_bit() {
    let recipes = json("clip_pixels.json");
    let pictures = decoded();
    let mut checked = 0;
    for recipe in recipes.as_array().unwrap() {
        let three = |key: &str| {
            let value = |i: usize| recipe[key][i].as_f64().unwrap() as f32;
            [value(0), value(1), value(2)]
        };
        let preprocess = ClipPreprocess {
            size: recipe["size"].as_u64().unwrap() as usize,
            mean: three("mean"),
            std: three("std"),
            interpolation: if recipe["interpolation"] == "bicubic" {
                Filter::Bicubic
            } else {
                Filter::Bilinear
            },
            resize_mode: if recipe["resize_mode"] == "squash" {
                ResizeMode::Squash
            } else {
                ResizeMode::Shortest
            },
        };
        for (name, hash) in recipe["sha256"].as_object().unwrap() {
            let (_, picture) = pictures.iter().find(|(other, _)| other == name).unwrap();
            let values = preprocess.run(picture);
            let mut digest = Sha256::new();
            for channel in 0..3 {
                let plane = values.iter().skip(channel).step_by(3);
                digest.update(plane.flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
            }
            let ours: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(ours, *hash, "{name} {preprocess:?}");
            checked += 1;
        }
    }
    assert_eq!(checked, 8 * 18);
}
