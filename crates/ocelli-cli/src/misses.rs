//! Wrong answers of `eval drawn`, for other programs and to look at.

use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, bail};
use image::{ImageFormat, RgbImage};
use ocelli_drawn::Scene;
use serde_json::json;

use crate::html::{base64, escape};
use crate::whole::write_whole;

/// Pictures that a page shows: with their noise each takes some 100 kB.
const SHOWN: usize = 100;
/// Pixels a side of them.
const SIDE: usize = 256;

const STYLE: &str = "\
:root{color-scheme:light dark;font:15px/1.4 system-ui,sans-serif}body{margin:1.5rem}h1{font-size:1.2rem}
ul{display:grid;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr));gap:1rem;padding:0;list-style:none}
img{width:16rem;border-radius:4px}p{margin:.2rem 0}small{opacity:.7}";

/// A wrong answer.
pub struct Miss {
    /// Kind of the question.
    pub kind: &'static str,
    /// What it was about.
    pub scene: Scene,
    /// The question.
    pub question: String,
    /// What would have been right.
    pub right: String,
    /// What the model said.
    pub said: String,
}

/// Refuse a file that cannot be written later, before minutes of work.
///
/// # Errors
/// When its folder is missing.
pub fn check(file: &Path) -> anyhow::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder.filter(|folder| !folder.is_dir()) {
        Some(folder) => bail!("{}: there is no folder {}", file.display(), folder.display()),
        None => Ok(()),
    }
}

/// Write `{"kind","seed","question","right","said"}`, one a line.
///
/// # Errors
/// When the file cannot be written.
pub fn write_list(file: &Path, misses: &[Miss]) -> anyhow::Result<()> {
    let mut text = String::new();
    for Miss { kind, scene, question, right, said } in misses {
        let seed = scene.seed();
        let line = json!({"kind": kind, "seed": seed, "question": question, "right": right, "said": said});
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    }
    write_whole(file, text.as_bytes())
}

/// Write a page of the first pictures with what was said about them; returns how many it shows.
///
/// # Errors
/// When the file cannot be written.
pub fn write_page(file: &Path, misses: &[Miss]) -> anyhow::Result<usize> {
    // Those of one scene stand one after the other; a scene of a class and one of any kind may have the same seed.
    let picture = |miss: &Miss| (miss.scene.seed(), miss.scene.kind(), miss.scene.caption());
    let scenes = misses.chunk_by(|a, b| picture(a) == picture(b));
    let total = scenes.clone().count();
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Wrong answers</title><style>{STYLE}</style><h1>{} wrong answers about {total} pictures</h1><ul>\n",
        misses.len()
    );
    for misses in scenes.take(SHOWN) {
        let scene = &misses[0].scene;
        let picture = base64(&png(scene).with_context(|| format!("encoding scene {}", scene.seed()))?);
        let caption = escape(&scene.caption());
        let _ = write!(
            page,
            "<li><img alt=\"{caption}\" src=\"data:image/png;base64,{picture}\"><p>{caption}</p>"
        );
        for miss in misses {
            let [question, right, said] = [&miss.question, &miss.right, &miss.said].map(|text| escape(text));
            let kind = miss.kind;
            let _ =
                write!(page, "<p><small>{kind}: {question}</small><br>{said} <small>not {right}</small></p>");
        }
        page += "</li>\n";
    }
    page += "</ul></html>\n";
    write_whole(file, page.as_bytes())?;
    Ok(total.min(SHOWN))
}

fn png(scene: &Scene) -> anyhow::Result<Vec<u8>> {
    let picture = scene.draw(SIDE);
    let side = picture.size as u32;
    let canvas =
        RgbImage::from_raw(side, side, picture.rgb).context("a picture has other pixels than it says")?;
    let mut bytes = Cursor::new(Vec::new());
    canvas.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}
