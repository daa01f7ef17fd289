//! `embed`: the towers of a MobileCLIP.

use serde_json::json;

use super::record::Recorder;
use super::subject::{Clip, timed};

/// `bench embed`.
pub fn embed(
    recorder: &mut Recorder,
    clip: &Clip,
    batches: &[usize],
    text: &str,
    runs: usize,
) -> anyhow::Result<()> {
    let size = ("resolution", json!(clip.model.config().image.size));
    let times = recorder.repeat(runs, |_| Ok(clip.picture()?.preprocess_ms))?;
    let reading = recorder.reading();
    recorder.times(["embed", "preprocess"], &clip.subject, &times, &reading, std::slice::from_ref(&size))?;
    let image = clip.picture()?;
    for &batch in batches {
        let images = vec![image.clone(); batch];
        let times = recorder.repeat(runs, |_| Ok(timed(|| Ok(clip.model.embed_images(&images)?))?.0))?;
        let reading = recorder.reading();
        let per_s = 1e3 * (batch * times.len()) as f64 / times.iter().sum::<f64>();
        let extra = [size.clone(), ("batch", json!(batch)), ("images_per_s", json!(per_s))];
        recorder.times(["embed", "image"], &clip.subject, &times, &reading, &extra)?;
    }
    let Some(tower) = &clip.model.config().text else {
        eprintln!("ocelli: this checkpoint has no text tower");
        return Ok(());
    };
    let times = recorder.repeat(runs, |_| Ok(timed(|| Ok(clip.model.embed_texts(&[text])?))?.0))?;
    let reading = recorder.reading();
    let extra = [("tokens", json!(tower.context_length)), ("batch", json!(1))];
    recorder.times(["embed", "text"], &clip.subject, &times, &reading, &extra)
}
