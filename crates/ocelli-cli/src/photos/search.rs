//! `ocelli search` and `ocelli similar`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use ocelli_index::{Query, Term};
use ocelli_photos::{Look, Request, Results, found_object};

use super::args::{SearchArgs, ShowArgs, SimilarArgs};
use super::index::counted;
use super::{found, open_search, sheet, web};

/// Look for words, pictures or a sum of them.
pub fn search(args: &SearchArgs) -> anyhow::Result<bool> {
    let photos = open_search(&args.index, &args.model)?;
    let Some(text) = &args.query else { return web::serve(photos, args.port, args.show.open) };
    let request = Request {
        look: Look::Query(query(text)?),
        filter: args.filter.filter(),
        count: args.show.count,
        min_score: args.show.min_score,
    };
    let results = photos.search(&request)?;
    show(text, &args.show, &results)
}

/// Look for pictures like one.
pub fn similar(args: &SimilarArgs) -> anyhow::Result<bool> {
    let photos = open_search(&args.index, &args.model)?;
    let bytes = std::fs::read(&args.file).with_context(|| format!("reading {}", args.file.display()))?;
    let hash = ocelli_index::hash(&bytes);
    let known = photos.with(|index, _, _| Ok(index.picture_with(&hash)?))?;
    let request = Request {
        look: known.map_or(Look::Bytes(bytes), Look::Like),
        filter: args.filter.filter(),
        // The picture itself is the first.
        count: args.show.count + usize::from(known.is_some()),
        min_score: args.show.min_score,
    };
    let mut results = photos.search(&request).with_context(|| args.file.display().to_string())?;
    results.found.retain(|found| Some(found.picture.id) != known);
    results.found.truncate(args.show.count);
    show(&args.file.display().to_string(), &args.show, &results)
}

/// A file's name may have a plus or minus of its own.
fn query(text: &str) -> anyhow::Result<Query> {
    if Path::new(text).is_file() {
        return Ok(Query { terms: vec![Term { weight: 1.0, text: text.to_owned() }] });
    }
    Ok(Query::parse(text)?)
}

fn show(query: &str, args: &ShowArgs, results: &Results) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    for found in &results.found {
        if args.json {
            writeln!(out, "{}", found_object(found))?;
        } else {
            writeln!(out, "{}", found::line(found))?;
        }
    }
    drop(out);
    if results.found.is_empty() {
        eprintln!("{}", nothing(args, results));
    }
    eprintln!(
        "{} in {} searched; query {:.0} ms, search {:.1} ms",
        results.found.len(),
        counted(results.searched, "picture"),
        results.embed_ms,
        results.search_ms
    );
    if let Some(file) = &args.html {
        sheet::write(file, query, &results.found)?;
        eprintln!("wrote {}", file.display());
    }
    if args.open {
        open(args, results)?;
    }
    Ok(true)
}

fn nothing(args: &ShowArgs, results: &Results) -> String {
    if results.searched == 0 {
        return "no picture passes the filters, or the index is empty".to_owned();
    }
    format!(
        "nothing relevant: the nearest picture scores {:.2}, below --min-score {:.2}",
        results.best_score, args.min_score
    )
}

fn open(args: &ShowArgs, results: &Results) -> anyhow::Result<()> {
    let best = results.found.first().and_then(|found| found.picture.files.first());
    match args.html.as_ref().or(best) {
        Some(file) => open_file(file.as_os_str()),
        None => Ok(()),
    }
}

/// Hand a file or an address to the system's viewer.
pub fn open_file(what: &std::ffi::OsStr) -> anyhow::Result<()> {
    let (program, first): (&str, &[&str]) = if cfg!(target_os = "macos") {
        ("open", &[])
    } else if cfg!(windows) {
        ("cmd", &["/c", "start", ""])
    } else {
        ("xdg-open", &[])
    };
    let mut command = Command::new(program);
    command.args(first).arg(what).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        // Viewers live longer than we do.
        Ok(_) => Ok(()),
        Err(error) => bail!("{program} does not start ({error}): open {} yourself", what.display()),
    }
}
