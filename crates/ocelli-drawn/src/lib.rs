//! The drawn world: scenes drawn from a seed, with the truth about them. It knows no model.
//!
//! A [`Scene`] is what a seed says is in a picture; [`Scene::draw`] makes its pixels, [`Scene::caption`] and
//! [`Scene::questions`] say what is true of it, and [`Answer::matches`] judges what a model says. All of it is the
//! same on every machine: random numbers, curves and colours are computed here or in integers.
//!
//! ```
//! use ocelli_drawn::{Blind, Scene, Split};
//!
//! let scene = Scene::any(Split::Eval, 3);
//! let blind = Blind::count(2000, 0);
//! let questions = scene.questions();
//! let guessed = questions.iter().filter(|q| q.answer.matches(blind.answer(q))).count();
//! assert!(guessed < questions.len(), "a caption is not guessed");
//! assert!(questions[0].answer.matches(&scene.caption()));
//! ```

#![forbid(unsafe_code)]

mod answer;
mod background;
mod blind;
mod canvas;
mod clip;
mod dataset;
mod error;
mod glyphs;
mod icons;
mod jpeg;
mod nuisance;
mod outline;
mod picture;
mod questions;
mod rng;
mod scene;
mod vocabulary;
mod words;

pub use answer::Answer;
pub use blind::Blind;
pub use clip::{CLASS_COUNT, DrawnClass, RETRIEVAL_COUNT, classes, retrieval_scenes};
pub use dataset::{DatasetOptions, DatasetReport, WORLD_VERSION, scene_seed, write_dataset};
pub use error::{DrawnError, Result};
pub use icons::{ICONS, Icon, Sort};
pub use picture::{MAX_SIZE, Picture};
pub use questions::{CAPTION_QUESTION, Question, QuestionKind};
pub use scene::{Kind, Object, Scene, Split};
pub use vocabulary::{Color, Relation, Shape, is_held_out, pairs};
