//! Answers of a FastVLM, as the page wants them.

use js_sys::{Array, Function};
use ocelli::{Answer, CancelToken, FastVlm};
use serde_json::{Value, json};
use wasm_bindgen::JsValue;

use crate::error::thrown;
use crate::pixels::pictures;
use crate::request::Generate;
use crate::turn::next_turn;

/// Answer a request; `on_text` gets each piece of text.
pub(crate) async fn generate(
    model: &FastVlm,
    images: &Array,
    request_json: &str,
    on_text: &Function,
    cancel: CancelToken,
) -> Result<String, JsValue> {
    let asked: Generate = serde_json::from_slice(request_json.as_bytes()).map_err(thrown)?;
    let options = asked.image_options().map_err(thrown)?;
    let prepare = |picture| model.prepare_rgb(&picture, &options).map_err(thrown);
    let images = pictures(images)?.into_iter().map(prepare).collect::<Result<_, JsValue>>()?;
    let request = asked.request(images, cancel).map_err(thrown)?;
    next_turn().await;
    let mut failed = None;
    let mut on_piece = |piece: &str| {
        if let Err(thrown) = on_text.call1(&JsValue::NULL, &piece.into()) {
            request.cancel.cancel();
            failed.get_or_insert(thrown);
        }
    };
    let answer = model.generate_async(&request, &mut on_piece, next_turn).await;
    match failed {
        Some(thrown) => Err(thrown),
        None => Ok(to_json(&answer.map_err(thrown)?).to_string()),
    }
}

fn to_json(answer: &Answer) -> Value {
    let (usage, timings) = (&answer.usage, &answer.timings);
    json!({
        "text": answer.text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason.name(),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "image_tokens": usage.image_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
        },
        "timings": {
            "preprocess_ms": timings.preprocess_ms,
            "encode_ms": timings.encode_ms,
            "prefill_ms": timings.prefill_ms,
            "ttft_ms": timings.ttft_ms,
            "decode_ms_per_token": timings.decode_ms_per_token,
            "tokens_per_s": timings.tokens_per_s,
            "total_ms": timings.total_ms,
        },
    })
}
