//! Reinforced data sets as other programs write them (`tests/fixtures/train/reinforced.tar`, by
//! `reference/make_reinforced_fixtures.py`), and what is no data set.

mod support;

use std::path::PathBuf;

use ocelli_testing::fixture;
use ocelli_text::ClipTokenizer;
use ocelli_train::clip_data::{Augmentation, Pairs, Recipe, Reinforced, Shards, Stored, Synthetic, Take};
use support::made;

const COLUMNS: usize = 8;
const RECIPE: Recipe = Recipe { size: 16, mean: [0.0; 3], std: [1.0; 3], context_length: 12 };

fn reinforced(shards: Shards, columns: usize, kind: Option<&str>) -> Reinforced {
    let synthetic = kind.map_or(Synthetic::Any, |kind| Synthetic::Kind(kind.to_owned()));
    let take = Take::Teachers { columns, synthetic };
    Reinforced::new(shards, Augmentation::usual(224), RECIPE, ClipTokenizer::new(), take)
}

fn tar() -> PathBuf {
    fixture("train/reinforced.tar")
}

/// Whether a row is one of `made(rows * COLUMNS, salt)`, rounded to the precision it was stored in.
fn is_row(found: &[f32], rows: usize, salt: usize, tolerance: f32) -> Option<usize> {
    let all = made(rows * COLUMNS, salt);
    all.chunks(COLUMNS).position(|row| {
        found.len() == COLUMNS && row.iter().zip(found).all(|(a, b)| (a - b).abs() <= tolerance)
    })
}

#[test]
fn samples_are_those_that_were_written() {
    let shards = Shards::open(&[tar()]).expect("opens");
    assert_eq!((shards.len(), shards.bad.as_slice()), (3, &[][..]));
    let stored: Vec<_> =
        (0..3).map(|i| Stored::parse(&shards.read(i).expect("read"), true).expect("a sample")).collect();
    let captions: Vec<_> = stored.iter().map(|sample| sample.caption.as_str()).collect();
    assert_eq!(captions, ["a picture in colour", "zwölf", "a web picture"]);
    assert!(stored[1].name.ends_with("reinforced.tar: part/001"), "{}", stored[1].name);
    assert_eq!(stored[1].synthetic.len(), 2);
    assert_eq!(stored[1].synthetic["syn_text_a"], ["one", "two"]);
    assert!(stored.iter().all(|sample| sample.augmentations.len() == 3));
    // As they lie in the file, not turned upright.
    assert_eq!([stored[1].image.width, stored[1].image.height], [64, 48]);
    let f16 = &stored[1].embeddings["image_emb"];
    assert_eq!((f16.len(), f16.columns), (3, COLUMNS));
    assert_eq!(stored[0].embeddings["image_emb"].values, made(3 * COLUMNS, 1));
}

#[test]
fn rows_of_teachers_go_with_what_was_drawn() {
    let shards = Shards::open(&[tar()]).expect("opens");
    let data = reinforced(shards, COLUMNS, None);
    let tokenizer = ClipTokenizer::new();
    let ids = |text: &str| tokenizer.encode(text, RECIPE.context_length).ids;
    let mut seen = std::collections::HashSet::new();
    for draw in 0..60 {
        let [first, second, third] = [0, 1, 2].map(|i| data.pair(i, draw).expect("a pair"));
        assert_eq!(first, data.pair(0, draw).expect("a pair"));
        assert_eq!(first.pixels.len(), 16 * 16 * 3);
        assert_eq!(first.text, ids("a picture in colour"));
        let rows = first.teachers.expect("teachers");
        let image = is_row(&rows.image, 3, 1, 0.0).expect("a row");
        assert_eq!(is_row(&rows.text, 3, 2, 0.0), Some(0));
        let synthetic = is_row(&rows.synthetic.expect("a row"), 3, 2, 0.0).expect("a row");
        assert_eq!(first.synthetic, Some(ids(["colours", "many colours"][synthetic - 1])));
        seen.insert((image, synthetic));

        let rows = second.teachers.expect("teachers");
        assert!(is_row(&rows.image, 3, 3, 1e-3).is_some() && is_row(&rows.text, 1, 4, 0.0).is_some());
        let synthetic = second.synthetic.expect("a caption");
        let row = rows.synthetic.expect("a row");
        let expected = match is_row(&row, 2, 5, 0.0) {
            Some(index) => ["one", "two"][index],
            None => is_row(&row, 1, 6, 0.0).map(|_| "three").expect("a row"),
        };
        assert_eq!(synthetic, ids(expected));

        let rows = third.teachers.expect("teachers");
        assert!(is_row(&rows.image, 3, 7, 4e-3).is_some() && is_row(&rows.text, 1, 8, 4e-3).is_some());
        assert!(is_row(&rows.synthetic.expect("a row"), 1, 9, 4e-3).is_some());
    }
    assert_eq!(seen.len(), 6, "every augmentation with every synthetic caption");
}

#[test]
fn pairs_need_no_teachers() {
    let shards = Shards::open(&[tar()]).expect("opens");
    let data = Reinforced::new(shards, Augmentation::usual(16), RECIPE, ClipTokenizer::new(), Take::Pairs);
    let (a, b) = (data.pair(2, 1).expect("a pair"), data.pair(2, 2).expect("a pair"));
    assert_eq!((&a.text, &a.teachers, &a.synthetic), (&b.text, &None, &None));
    assert_ne!(a.pixels, b.pixels);
}

#[test]
fn what_is_missing_is_told_with_the_name_of_the_sample() {
    let open = || Shards::open(&[tar()]).expect("opens");
    let reason = |data: Reinforced, index| data.pair(index, 0).expect_err("refused");
    let message = reason(reinforced(open(), 9, None), 1);
    assert!(message.contains("part/001") && message.contains("8 values a row"), "{message}");
    assert!(reason(reinforced(open(), COLUMNS, Some("syn_text_c")), 1).contains("syn_text_c"));
    reinforced(open(), COLUMNS, Some("syn_text_b")).pair(1, 0).expect("there is that kind");
}

#[test]
fn damaged_files_give_errors() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.tar");
    let whole = std::fs::read(tar()).expect("a fixture");
    let try_all = |bytes: &[u8]| -> (usize, usize) {
        std::fs::write(&path, bytes).expect("written");
        let shards = Shards::open(std::slice::from_ref(&path)).expect("opens");
        let bad = shards.bad.len();
        let data = reinforced(shards, COLUMNS, None);
        (bad, (0..data.count()).filter(|&i| data.pair(i, 3).is_ok()).count())
    };
    assert_eq!(try_all(&whole), (0, 3));
    // Cut off: what stands before the cut is read, the sample with the cut in it is not.
    for length in (1..whole.len()).step_by(1777) {
        let (bad, good) = try_all(&whole[..length]);
        assert!(bad == 1 && good < 3 || bad == 0 && good == 3, "{length}: {bad} {good}");
    }
    assert_eq!(try_all(b""), (1, 0));
    assert_eq!(try_all(&[b'x'; 2000]).1, 0);
    // Rubbish in the middle of anything.
    for at in (0..whole.len()).step_by(997) {
        let mut bytes = whole.clone();
        let end = (at + 40).min(bytes.len());
        bytes[at..end].fill(0xff);
        try_all(&bytes);
    }
    assert!(Shards::open(&[dir.path().join("none.tar")]).is_err());
    assert_eq!(Shards::in_folder(dir.path()).expect("a folder"), [path]);
}
