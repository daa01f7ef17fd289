//! A reinforced data set of our own: what is written is what the teachers say, it is learned from as it is, and an
//! interruption changes no byte of it.

use std::ops::ControlFlow;
use std::path::Path;

use ocelli::{ClipOptions, DType, FastVlm, LoadOptions, MobileClip};
use ocelli_testing::fixture;
use ocelli_text::ClipTokenizer;
use ocelli_train::TrainError;
use ocelli_train::clip_data::{Captioned, Pairs, Recipe, Reinforced, Shards, Stored, Synthetic, Take};
use ocelli_train::reinforce::{Captioner, DataSet, ReinforceConfig, Teacher, reinforce};

fn teacher(name: &str) -> MobileClip {
    let tokenizer = Some(fixture("clip-tokenizer"));
    let options = ClipOptions { dtype: DType::F32, threads: 1, tokenizer, ..ClipOptions::default() };
    MobileClip::load(&fixture(name), &options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn captioner() -> FastVlm {
    let options = LoadOptions { dtype: DType::F32, threads: 1, ..LoadOptions::default() };
    FastVlm::load(&fixture("fastvlm-apple"), &options).expect("a model")
}

fn samples() -> Vec<Captioned> {
    let files = ["rgb_160x120.png", "exif6_120x80.jpg", "none.png", "anim_48x36.gif", "lossless_57x43.webp"];
    let one = |file: &str| Captioned {
        image: fixture("images").join(file),
        caption: format!("a picture of {file}"),
    };
    files.map(one).to_vec()
}

fn config() -> ReinforceConfig {
    ReinforceConfig {
        augmentations: 3,
        captions: 2,
        shard: 2,
        caption_tokens: 4,
        seed: 5,
        ..ReinforceConfig::default()
    }
}

/// Stops after so many pictures.
fn write(folder: &Path, config: &ReinforceConfig, stop: usize) -> Result<(usize, Vec<String>), TrainError> {
    let (first, second, captioner) = (teacher("mobileclip-s0"), teacher("mobileclip-b"), captioner());
    let mut told = Vec::new();
    let mut seen = 0;
    let mut progress = |_| {
        seen += 1;
        if seen == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let teachers: [&dyn Teacher; 2] = [&first, &second];
    let captioner: Option<&dyn Captioner> = Some(&captioner);
    let mut tell = |reason: &str| told.push(reason.to_owned());
    let done = reinforce(&samples(), &teachers, captioner, config, folder, &mut progress, &mut tell)?;
    Ok((done.done, told))
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries
        .map(|path| {
            (
                path.file_name().expect("a name").to_string_lossy().into_owned(),
                std::fs::read(path).expect("read"),
            )
        })
        .collect();
    files.sort();
    files
}

#[test]
fn an_interrupted_data_set_is_finished_to_the_same_bytes() {
    let [whole, stopped] = [(), ()].map(|()| tempfile::tempdir().expect("a folder"));
    let (done, told) = write(whole.path(), &config(), 0).expect("written");
    assert_eq!(done, 5);
    assert!(told.len() == 1 && told[0].contains("none.png"), "{told:?}");
    assert_eq!(write(stopped.path(), &config(), 3).expect("written").0, 3);
    assert!(stopped.path().join("00000000.tar").is_file() && !stopped.path().join("00000001.tar").exists());
    assert_eq!(write(stopped.path(), &config(), 0).expect("written").0, 5);
    let names = |folder: &Path| files(folder).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(whole.path()), ["00000000.tar", "00000001.tar", "00000002.tar", "reinforced.json"]);
    assert!(files(whole.path()) == files(stopped.path()), "not the same bytes");
    // Another data set does not mix with it.
    let other = ReinforceConfig { seed: 6, ..config() };
    let error = write(whole.path(), &other, 0).expect_err("refused");
    assert!(matches!(&error, TrainError::OtherRun { what, .. } if what == "config"), "{error}");
}

#[test]
fn what_is_written_is_what_the_teachers_say() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &config(), 0).expect("written");
    let set = DataSet::open(folder.path()).expect("settings");
    let (first, second) = (teacher("mobileclip-s0"), teacher("mobileclip-b"));
    assert_eq!(set.teachers.dims, [first.dim(), second.dim()]);
    assert_eq!(set.teachers.logit_scales, [first.logit_scale(), second.logit_scale()]);
    let shards = Shards::open(&Shards::in_folder(folder.path()).expect("tar files")).expect("opens");
    assert_eq!((shards.len(), shards.bad.as_slice()), (4, &[][..]));
    for i in 0..shards.len() {
        let stored = Stored::parse(&shards.read(i).expect("read"), true).expect("a sample");
        let texts = &stored.synthetic["syn_text"];
        assert_eq!((stored.augmentations.len(), texts.len()), (3, 2));
        for (a, parameters) in stored.augmentations.iter().enumerate() {
            let changed = set.image_augmentation.replay(&stored.image, parameters).expect("replayed");
            let expected =
                [first.picture(&changed).expect("a row"), second.picture(&changed).expect("a row")].concat();
            assert_eq!(stored.embeddings["image_emb"].row(a), Some(&expected[..]));
        }
        let rows = |text: &str| {
            [Teacher::text(&first, text).expect("a row"), Teacher::text(&second, text).expect("a row")]
                .concat()
        };
        assert_eq!(stored.embeddings["text_emb"].row(0), Some(&rows(&stored.caption)[..]));
        assert_eq!(stored.embeddings["syn_text_emb"].row(1), Some(&rows(&texts[1])[..]));
    }
    // A picture that had to be turned lies upright in the file.
    let turned = Stored::parse(&shards.read(1).expect("read"), false).expect("a sample");
    assert_eq!([turned.image.width, turned.image.height], [80, 120]);

    let recipe = Recipe { size: 64, mean: [0.0; 3], std: [1.0; 3], context_length: 9 };
    for (synthetic, some) in [(Synthetic::Any, true), (Synthetic::None, false)] {
        let take = Take::Teachers { columns: set.teachers.columns(), synthetic };
        let shards = Shards::open(&Shards::in_folder(folder.path()).expect("tar files")).expect("opens");
        let data =
            Reinforced::new(shards, set.image_augmentation.clone(), recipe, ClipTokenizer::new(), take);
        for i in 0..data.count() {
            let pair = data.pair(i, 7).expect("a pair");
            assert_eq!((pair.pixels.len(), pair.synthetic.is_some()), (64 * 64 * 3, some));
        }
    }
}
