//! Random MobileCLIP checkpoints: each is opened again with every tensor in its place.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use ocelli_weights::{ClipCheckpoint, ClipTower, Family, Interpolation, SynthArch, synth};

/// A checkpoint directory whose weight file is a hole: no disk, every shape.
fn hollow(arch: SynthArch, dir: &Path) -> ClipCheckpoint {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for tensor in arch.tensors() {
        let offsets = [end, end + tensor.bytes()];
        end = offsets[1];
        let dtype = tensor.dtype.name();
        let entry = serde_json::json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": offsets });
        header.insert(tensor.name, entry);
    }
    let header = serde_json::to_vec(&header).expect("json");
    let path = dir.join(format!("{}.safetensors", arch.weight_file()));
    let mut file = File::create(path).expect("file");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("write");
    file.write_all(&header).expect("write");
    file.set_len(8 + header.len() as u64 + end).expect("a hole of the weights' size");
    for (name, config) in arch.configs(1) {
        std::fs::write(dir.join(name), config.to_string()).expect("config");
    }
    assert!(ClipCheckpoint::is_clip(dir), "{}", arch.name());
    ClipCheckpoint::open(dir).expect("checkpoint")
}

/// Embedding, image side, mean, filter (open_clip 3.3 `pretrained.py`); text layers, heads and mask.
#[test]
fn every_size_is_opened_with_its_configuration() {
    let (bilinear, bicubic) = (Interpolation::Bilinear, Interpolation::Bicubic);
    for arch in SynthArch::ALL.into_iter().filter(|arch| arch.is_mobileclip()) {
        let dir = tempfile::tempdir().expect("directory");
        let checkpoint = hollow(arch, dir.path());
        let expected = match arch {
            SynthArch::MobileClipTiny => (32, 256, 0.0, bilinear, 3, 1, false),
            SynthArch::MobileClipS0 => (512, 256, 0.0, bilinear, 6, 8, false),
            SynthArch::MobileClip2L14 => (768, 224, 0.481_454_66, bicubic, 12, 12, false),
            SynthArch::MobileClip2S3 | SynthArch::MobileClip2S4 => {
                (768, 256, 0.481_454_66, bilinear, 12, 12, false)
            }
            SynthArch::MobileClipB | SynthArch::MobileClipBlt | SynthArch::MobileClip2B => {
                (512, 224, 0.0, bilinear, 12, 8, true)
            }
            _ => (512, 256, 0.0, bilinear, 12, 8, false),
        };
        let config = &checkpoint.config;
        let (image, text) = (&config.image, config.text.as_ref().expect("a text tower"));
        let found = (
            config.embed_dim,
            image.size,
            image.mean[0],
            image.interpolation,
            text.layers,
            text.heads,
            text.causal,
        );
        assert_eq!(found, expected, "{}", arch.name());
        assert!(!image.squash && text.context_length == 77 && text.vocab_size == 49_408);
        let fast_vit = matches!(config.tower, ClipTower::FastVit(_));
        assert_eq!(fast_vit, image.size == 256, "{}", arch.name());
        let apple = matches!(arch, SynthArch::MobileClipTiny | SynthArch::MobileClipS0);
        let family = if apple { Family::AppleClip } else { Family::OpenClip };
        assert_eq!(checkpoint.report.family, family, "{}", arch.name());
        // Vision transformers have no branches.
        assert!(checkpoint.report.is_complete() && checkpoint.report.folded != fast_vit);
    }
}

#[test]
fn tiny_loads() {
    let dir = tempfile::tempdir().expect("a directory");
    synth(SynthArch::MobileClipTiny, dir.path(), 1, false, &mut |_, _| {}).expect("written");
    let checkpoint = ClipCheckpoint::open(dir.path()).expect("a checkpoint");
    assert!((54.0..91.0).contains(&checkpoint.config.logit_scale));
    let weights = checkpoint.weights();
    for tensor in weights.iter() {
        let values = ocelli_plan::WeightSource::read(weights, tensor.name).expect("a tensor");
        assert!(values.iter().all(|v| v.is_finite()), "{}", tensor.name);
        assert!(values.len() < 8 || values.iter().any(|v| *v != values[0]), "{}", tensor.name);
    }
}

/// A model of another kind, forced into the same directory, leaves nothing of the one before.
#[test]
fn another_model_takes_the_place_of_the_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let names = || {
        let entries = std::fs::read_dir(dir.path()).expect("a directory");
        let mut names: Vec<_> = entries.map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        names
    };
    synth(SynthArch::MobileClipTiny, dir.path(), 1, false, &mut |_, _| {}).expect("written");
    assert_eq!(names(), ["config.json", "model.safetensors"]);
    // As an interrupted run of a model in open_clip's layout leaves it.
    std::fs::remove_file(dir.path().join("config.json")).expect("removed");
    let (name, config) = &SynthArch::MobileClip2S0.configs(1)[0];
    std::fs::write(dir.path().join(name), config.to_string()).expect("written");
    std::fs::write(dir.path().join("open_clip_model.safetensors"), "cut").expect("written");
    std::fs::write(dir.path().join("tokenizer.json"), "{}").expect("written");
    std::fs::write(dir.path().join("mine.txt"), "kept").expect("written");
    synth(SynthArch::MobileClipTiny, dir.path(), 1, true, &mut |_, _| {}).expect("forced");
    assert_eq!(names(), ["config.json", "mine.txt", "model.safetensors"]);
}
