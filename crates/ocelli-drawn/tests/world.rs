//! What holds for every scene: the same bytes everywhere, the truth, nothing held out in training, and yes as often
//! as no.

use std::collections::{BTreeMap, BTreeSet};

use ocelli_drawn::{
    Answer, Blind, Color, Kind, Question, QuestionKind, Scene, Shape, Split, is_held_out, pairs,
    retrieval_scenes,
};
use sha2::{Digest, Sha256};

/// SHA-256 of pictures, captions, questions and answers. A change here needs a new `WORLD_VERSION`: data sets and
/// models made before were made of other scenes.
#[test]
fn scenes_are_the_same_bytes_everywhere() {
    let mut hash = Sha256::new();
    for kind in Kind::ALL {
        for seed in 0..12 {
            let scene = Scene::new(kind, Split::Train, seed);
            hash.update(scene.draw([256, 100][seed as usize % 2]).rgb);
            hash.update(scene.varied_caption());
            for question in scene.questions() {
                hash.update(format!("{} {} {}", question.kind.name(), question.text, question.answer.text()));
            }
        }
    }
    for seed in 0..20 {
        hash.update(Scene::any(Split::Eval, seed).draw(64).rgb);
        hash.update(Scene::held_out(seed).caption());
    }
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, "635506d076a6b6c27626a97bf8c6ef711bcea1b6f0226279c16aabfce6403fbe");
}

#[test]
fn splits_and_seeds_draw_different_scenes() {
    let mut pictures = BTreeSet::new();
    for seed in 0..50 {
        for split in [Split::Train, Split::Eval] {
            assert!(pictures.insert(Scene::new(Kind::One, split, seed).draw(32).rgb), "{split:?} {seed}");
        }
    }
}

/// Every "red circle", "red circles" and "circle red" in a text.
fn named_pairs(text: &str) -> Vec<(Color, Shape)> {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|w| !w.is_empty()).collect();
    let color = |word: &str| Color::ALL.into_iter().find(|c| c.name() == word);
    let shape = |word: &str| Shape::ALL.into_iter().find(|s| s.name() == word || s.plural() == word);
    let pair = |two: &[&str]| color(two[0]).zip(shape(two[1])).or_else(|| color(two[1]).zip(shape(two[0])));
    words.windows(2).filter_map(pair).collect()
}

#[test]
fn training_never_draws_nor_names_a_held_out_pair() {
    let mut drawn = BTreeSet::new();
    let mut named = 0;
    for seed in 0..20_000 {
        let scene = Scene::any(Split::Train, seed);
        drawn.extend(scene.objects().iter().map(|o| (o.color, o.shape)));
        let questions = scene.questions();
        let texts = questions.iter().flat_map(|q| [q.text.as_str(), q.answer.text()]);
        for text in texts.chain([scene.caption().as_str(), scene.varied_caption().as_str()]) {
            for (color, shape) in named_pairs(text) {
                assert!(!is_held_out(color, shape), "{seed}: {text}");
                named += 1;
            }
        }
    }
    // All others are drawn, and the search for names finds some.
    assert_eq!(drawn, pairs(false).into_iter().collect());
    assert!(named > 20_000, "{named}");
}

#[test]
fn held_out_scenes_hold_a_pair_that_training_lacks() {
    for seed in 0..500 {
        let scene = Scene::held_out(seed);
        assert!(scene.objects().iter().any(|o| is_held_out(o.color, o.shape)), "{seed}");
        let questions = scene.questions();
        assert!(questions.len() >= 2 || scene.objects().len() == 2, "{seed}");
        assert!(questions.iter().all(|q| q.kind == QuestionKind::HeldOut), "{seed}");
        let plain = Scene::new(Kind::Two, Split::Eval, seed);
        assert!(plain.objects().iter().all(|o| !is_held_out(o.color, o.shape)), "{seed}");
    }
}

/// Neither the form of a yes/no question nor any word in it tells the answer.
#[test]
fn yes_is_as_likely_as_no() {
    let mut forms: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
    let mut words: BTreeMap<(&str, String), [f64; 2]> = BTreeMap::new();
    for seed in 0..200_000 {
        for question in Scene::any(Split::Train, seed).questions() {
            if question.kind == QuestionKind::YesNo {
                let yes = usize::from(question.answer.text() == "yes");
                forms.entry(question.form).or_default()[yes] += 1.0;
                for word in question.text.split_whitespace() {
                    words.entry((question.form, word.to_owned())).or_default()[yes] += 1.0;
                }
            }
        }
    }
    let share = |[no, yes]: [f64; 2]| yes / (yes + no);
    let all = forms.values().fold([0.0; 2], |sum, n| [sum[0] + n[0], sum[1] + n[1]]);
    assert!((share(all) - 0.5).abs() < 0.005, "{}", share(all));
    assert_eq!(forms.len(), 8, "{forms:?}");
    for (form, counts) in &forms {
        assert!(counts[0] + counts[1] > 10_000.0, "{form} {counts:?}");
        assert!((share(*counts) - 0.5).abs() < 0.01, "{form} {counts:?}");
    }
    for ((form, word), counts) in &words {
        // Four standard deviations of a fair coin, and a little for the pairs that false questions must not name.
        let count = counts[0] + counts[1];
        let limit = 0.03 + 2.0 / count.sqrt();
        assert!((share(*counts) - 0.5).abs() < limit, "{form} {word} {counts:?}");
    }
}

#[test]
fn what_is_counted_is_there() {
    for seed in 0..1000 {
        let scene = Scene::new(Kind::Count, Split::Eval, seed);
        for question in scene.questions().iter().filter(|q| q.kind == QuestionKind::Count) {
            let asked = |shape: Shape| question.text.contains(&shape.plural()) && question.form == "count_of";
            let shape = Shape::ALL.into_iter().find(|&s| asked(s));
            let there = scene.objects().iter().filter(|o| shape.is_none_or(|s| s == o.shape)).count();
            assert_eq!(question.answer.text(), there.to_string(), "{seed}: {}", question.text);
        }
        let boxes = scene.boxes();
        assert_eq!(boxes.len(), scene.objects().len());
    }
}

/// In the picture as the slanting camera shows it: everything inside, nothing on something else, relations as told.
#[test]
fn boxes_are_inside_and_relations_are_true() {
    for kind in Kind::ALL {
        for seed in 0..1000 {
            let scene = Scene::new(kind, Split::Train, seed);
            let boxes = scene.boxes();
            for [left, top, right, bottom] in &boxes {
                let inside = *left > 0.0 && *top > 0.0 && *right < 1.0 && *bottom < 1.0;
                assert!(inside && right - left > 0.02 && bottom - top > 0.02, "{kind:?} {seed} {boxes:?}");
            }
            if kind == Kind::Two {
                let middle = |at: usize, side: usize| (boxes[at][side] + boxes[at][side + 2]) / 2.0;
                let [dx, dy] = [0, 1].map(|side| middle(1, side) - middle(0, side));
                let caption = scene.caption();
                let left = caption.contains("to the left of");
                assert!(left || caption.contains(" above "), "{caption}");
                let (main, aside) = if left { (dx, dy) } else { (dy, dx) };
                assert!(main > 1.5 * aside.abs(), "{seed}: {caption} {dx} {dy}");
            }
        }
    }
}

#[test]
fn charts_are_as_told() {
    for seed in 0..500 {
        let scene = Scene::new(Kind::Chart, Split::Eval, seed).without_nuisances();
        let heights: Vec<f32> = scene.boxes().iter().map(|b| b[3] - b[1]).collect();
        let picture = scene.draw(256);
        let middle = |b: &[f32; 4]| [(b[0] + b[2]) * 128.0, (b[1] + b[3]) * 128.0].map(|at| at as usize);
        let names: Vec<&str> =
            scene.boxes().iter().map(|b| nearest(picture.pixel(middle(b)[0], middle(b)[1]))).collect();
        let extreme = |most: bool| {
            let order = |a: &usize, b: &usize| heights[*a].total_cmp(&heights[*b]);
            let at = 0..heights.len();
            if most { at.max_by(order) } else { at.min_by(order) }.map(|i| names[i])
        };
        let questions = scene.questions();
        let answer = |form: &str| questions.iter().find(|q| q.form == form).map(|q| q.answer.text());
        assert_eq!(answer("chart_tallest"), extreme(true), "{seed}");
        assert_eq!(answer("chart_shortest"), extreme(false), "{seed}");
        assert!(answer("chart_count").is_none_or(|n| n == heights.len().to_string()), "{seed}");
    }
}

/// The name of the colour whose plain look is nearest.
fn nearest(pixel: [u8; 3]) -> &'static str {
    let looks: [(&str, &[[i32; 3]]); 10] = [
        ("red", &[[225, 25, 35], [255, 0, 0]]),
        ("orange", &[[250, 140, 20], [255, 165, 0]]),
        ("yellow", &[[250, 220, 30], [255, 255, 0]]),
        ("green", &[[40, 160, 60], [0, 128, 0], [60, 200, 80]]),
        ("blue", &[[35, 85, 220], [0, 0, 255]]),
        ("purple", &[[135, 45, 175], [128, 0, 128]]),
        ("pink", &[[255, 135, 190], [255, 192, 203]]),
        ("brown", &[[125, 75, 35], [105, 65, 40]]),
        ("gray", &[[135, 135, 135], [155, 155, 155]]),
        ("black", &[[15, 15, 15]]),
    ];
    let distance = |look: &[i32; 3]| (0..3).map(|c| (look[c] - i32::from(pixel[c])).pow(2)).sum::<i32>();
    let nearest = looks.iter().min_by_key(|(_, looks)| looks.iter().map(distance).min());
    nearest.map_or("", |found| found.0)
}

#[test]
fn answers_are_right_for_themselves_and_wrong_for_another() {
    let mut kinds: BTreeMap<QuestionKind, Vec<Answer>> = BTreeMap::new();
    for seed in 0..3000 {
        for split in [Split::Train, Split::Eval] {
            for Question { kind, answer, .. } in Scene::any(split, seed).questions() {
                assert!(answer.matches(answer.text()), "{answer:?}");
                assert!(answer.matches(&format!("{}.", answer.text().to_uppercase())), "{answer:?}");
                kinds.entry(kind).or_default().push(answer);
            }
        }
    }
    assert_eq!(kinds.len(), QuestionKind::ALL.len());
    for (kind, answers) in kinds {
        let mut different = 0;
        for pair in answers.windows(2) {
            let equal = pair[0].text().eq_ignore_ascii_case(pair[1].text());
            assert_eq!(pair[0].matches(pair[1].text()), equal, "{kind:?} {pair:?}");
            different += usize::from(!equal);
        }
        assert!(different * 3 > answers.len(), "{kind:?}: {different} of {}", answers.len());
    }
}

/// Without a look at the picture little is right, and of yes and no half.
#[test]
fn the_blind_know_little() {
    let blind = Blind::count(20_000, 0);
    let mut right: BTreeMap<QuestionKind, [f64; 2]> = BTreeMap::new();
    for seed in 0..20_000 {
        for question in Scene::any(Split::Eval, seed).questions() {
            let count = right.entry(question.kind).or_default();
            count[0] += 1.0;
            count[1] += f64::from(u8::from(question.answer.matches(blind.answer(&question))));
        }
    }
    for (kind, [asked, right]) in right {
        let share = right / asked;
        let most = match kind {
            QuestionKind::YesNo => 0.51,
            QuestionKind::Count | QuestionKind::Relation | QuestionKind::Chart => 0.35,
            QuestionKind::Color => 0.3,
            QuestionKind::Shape | QuestionKind::HeldOut => 0.2,
            _ => 0.05,
        };
        assert!(asked > 1000.0 && share < most, "{} {share:.3} of {asked}", kind.name());
    }
}

#[test]
fn retrieval_scenes_are_drawn_by_seed() {
    let captions = |seed| retrieval_scenes(seed).iter().map(Scene::caption).collect::<Vec<_>>();
    assert_eq!(captions(1), captions(1));
    assert_ne!(captions(1), captions(2_000_000));
}
