//! `ocelli dupes` and `ocelli stats`.

use std::io::Write;
use std::sync::Arc;

use ocelli_index::{Index, Picture, near_duplicates};
use ocelli_photos::{date_time, picture_object};
use serde_json::json;

use super::args::{DupesArgs, StatsArgs};
use super::index::counted;
use crate::message::{printable, size};
use crate::progress::CountProgress;

/// Up to so many pictures each is compared with each other; above, with its nearest in the graph.
const EXACT_UP_TO: usize = 300_000;

/// Groups of pictures that look the same.
pub fn dupes(args: &DupesArgs) -> anyhow::Result<bool> {
    let index = Index::open(&args.index.path())?;
    let vectors = Arc::new(index.vectors()?);
    let graph = if vectors.len() > EXACT_UP_TO { index.graph(&vectors)? } else { None };
    let mut bar = CountProgress::new("comparing, %", 100);
    let groups = near_duplicates(&vectors, graph.as_ref(), args.threshold, &mut |done| {
        bar.at((100.0 * done) as usize);
        true
    })?;
    bar.finish();
    let mut files = 0;
    let mut out = std::io::stdout().lock();
    let grouped: std::collections::HashSet<i64> = groups.iter().flatten().copied().collect();
    // Copies of one file are one picture of the index.
    let copies = index.with_copies()?.into_iter().filter(|id| !grouped.contains(id)).map(|id| vec![id]);
    let all: Vec<Vec<i64>> = groups.iter().cloned().chain(copies).collect();
    for group in &all {
        let mut pictures = group.iter().map(|&id| index.picture(id)).collect::<Result<Vec<_>, _>>()?;
        pictures.sort_by_key(|picture| (std::cmp::Reverse(pixels(picture)), picture.id));
        let keep = index.vector(pictures[0].id)?;
        files += pictures.iter().map(|picture| picture.files.len()).sum::<usize>() - 1;
        let mut members = Vec::new();
        for (place, picture) in pictures.iter().enumerate() {
            let similarity: f32 = index.vector(picture.id)?.iter().zip(&keep).map(|(a, b)| a * b).sum();
            for (copy, file) in picture.files.iter().enumerate() {
                let best = place == 0 && copy == 0;
                let mut member = picture_object(picture);
                member["path"] = json!(file.display().to_string());
                member["similarity"] = json!(similarity.min(1.0));
                member["best"] = json!(best);
                if !args.json {
                    let mark = if best { "best " } else { "" };
                    let path = printable(&file.display().to_string());
                    writeln!(out, "{:.3}  {mark}{path}  {}", similarity.min(1.0), dimensions(picture))?;
                }
                members.push(member);
            }
        }
        if args.json {
            writeln!(out, "{}", json!({"pictures": members}))?;
        } else {
            writeln!(out)?;
        }
    }
    eprintln!("{}, {} beside the best of each", counted(all.len(), "group"), counted(files, "file"));
    Ok(true)
}

fn pixels(picture: &Picture) -> u64 {
    let side = |length: Option<u32>| u64::from(length.unwrap_or(0));
    side(picture.details.width) * side(picture.details.height)
}

fn dimensions(picture: &Picture) -> String {
    match (picture.details.width, picture.details.height) {
        (Some(width), Some(height)) => format!("{width}x{height}"),
        _ => String::new(),
    }
}

/// What the index holds.
pub fn stats(args: &StatsArgs) -> anyhow::Result<bool> {
    let index = Index::open(&args.index.path())?;
    if args.failures {
        return failures(&index, args.json);
    }
    let (stats, config) = (index.stats()?, index.config());
    let mut out = std::io::stdout().lock();
    if args.json {
        let counts = |counts: &[ocelli_index::Count]| -> serde_json::Map<String, serde_json::Value> {
            counts.iter().map(|count| (count.name.clone(), json!(count.pictures))).collect()
        };
        let line = json!({
            "index": index.path().display().to_string(), "model": config.model, "dim": config.dim,
            "vectors": config.encoding.name(), "pictures": stats.pictures, "files": stats.files,
            "file_bytes": stats.file_bytes, "failures": stats.failures, "dated": stats.dated,
            "placed": stats.placed, "first": stats.span.map(|(first, _)| date_time(first)),
            "last": stats.span.map(|(_, last)| date_time(last)), "years": counts(&stats.years),
            "cameras": counts(&stats.cameras), "index_bytes": stats.index_bytes,
        });
        writeln!(out, "{line}")?;
        return Ok(true);
    }
    writeln!(out, "index      {} ({})", index.path().display(), size(stats.index_bytes))?;
    writeln!(out, "model      {}, vectors of {} x {}", config.model, config.dim, config.encoding.name())?;
    writeln!(
        out,
        "pictures   {} in {} ({})",
        stats.pictures,
        counted(stats.files as usize, "file"),
        size(stats.file_bytes)
    )?;
    writeln!(out, "failed     {}", counted(stats.failures as usize, "file"))?;
    let span = stats.span.map(|(first, last)| format!(", {} to {}", date_time(first), date_time(last)));
    writeln!(out, "dated      {}{}", stats.dated, span.unwrap_or_default())?;
    writeln!(out, "placed     {}", stats.placed)?;
    for (title, counts) in [("years", &stats.years), ("cameras", &stats.cameras)] {
        for (line, count) in counts.iter().take(20).enumerate() {
            let title = if line == 0 { title } else { "" };
            writeln!(out, "{title:10} {:>8}  {}", count.pictures, printable(&count.name))?;
        }
    }
    Ok(true)
}

fn failures(index: &Index, json: bool) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    for failure in index.failures()? {
        let path = failure.path.display().to_string();
        if json {
            writeln!(out, "{}", json!({"path": path, "reason": failure.reason}))?;
        } else {
            writeln!(out, "{}: {}", printable(&path), printable(&failure.reason))?;
        }
    }
    Ok(true)
}
