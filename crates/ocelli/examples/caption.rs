//! The library in one page: load a model, stream an answer, stop it from outside, read its timings.
//!
//! ```text
//! cargo run --release --example caption -- MODEL_DIR IMAGE [QUESTION] [SECONDS]
//! ```
//!
//! With SECONDS, the answer is cancelled after so much time, as a program with a stop button would.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use ocelli::{FastVlm, LoadOptions, Request};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, image, rest @ ..] = &args[..] else {
        return Err("usage: caption MODEL_DIR IMAGE [QUESTION] [SECONDS]".into());
    };
    let question = rest.first().map_or("Describe the image.", String::as_str);
    let seconds: Option<f32> = rest.get(1).map(|text| text.parse()).transpose()?;

    // bf16 on every core; `LoadOptions` has the type, the threads and the instruction set.
    let model = FastVlm::load(Path::new(model), &LoadOptions::default())?;
    let image = model.open_image(Path::new(image))?;
    let request = Request { max_tokens: 64, ..Request::ask(question, vec![image]) };

    // A clone of the token reaches the generation from any thread.
    if let Some(seconds) = seconds {
        let (cancel, limit) = (request.cancel.clone(), Duration::try_from_secs_f32(seconds)?);
        std::thread::spawn(move || {
            std::thread::sleep(limit);
            cancel.cancel();
        });
    }

    // Pieces arrive as soon as they are certain and never split a character.
    let mut out = std::io::stdout();
    let answer = model.generate(&request, &mut |piece| {
        // Who closed the pipe reads no more.
        let _ = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
    })?;
    println!();

    let (usage, timings) = (answer.usage, answer.timings);
    eprintln!(
        "{}: {} tokens after a prompt of {} ({} of them visual), {} kernels on {} threads",
        answer.finish_reason.name(),
        usage.completion_tokens,
        usage.prompt_tokens,
        usage.image_tokens,
        model.kernels(),
        model.threads()
    );
    eprintln!(
        "image {:.0} ms, encoder {:.0} ms, prefill {:.0} ms, first token after {:.0} ms",
        timings.preprocess_ms, timings.encode_ms, timings.prefill_ms, timings.ttft_ms
    );
    // Absent when the answer was cancelled or had a single token.
    if timings.tokens_per_s > 0.0 {
        eprintln!("{:.1} tokens/s after the first", timings.tokens_per_s);
    }

    // The picture's embeddings and the prompt are still in memory: only what is new is computed.
    request.cancel.reset();
    let again = model.generate(&Request { max_tokens: 1, ..request }, &mut |_| ())?;
    let (known, all) = (again.usage.cached_tokens, again.usage.prompt_tokens);
    eprintln!(
        "asked again: {known} of {all} positions were known, first token after {:.0} ms",
        again.timings.ttft_ms
    );
    Ok(())
}
