//! Embeddings of a MobileCLIP, as the page wants them.

use js_sys::{Array, Float32Array};
use ocelli::MobileClip;
use wasm_bindgen::JsValue;

use crate::error::thrown;
use crate::pixels::pictures;
use crate::turn::next_turn;

/// One row for each picture.
pub(crate) async fn embed_images(model: &MobileClip, images: &Array) -> Result<Array, JsValue> {
    let rows = Array::new();
    for picture in pictures(images)? {
        next_turn().await;
        let embedded = model.embed_images_async(&[model.prepare_image(&picture)]).await.map_err(thrown)?;
        push(&rows, &embedded);
    }
    Ok(rows)
}

/// One row for each text.
pub(crate) async fn embed_texts(model: &MobileClip, texts: &[String]) -> Result<Array, JsValue> {
    let rows = Array::new();
    for text in texts {
        next_turn().await;
        push(&rows, &model.embed_texts_async(&[text]).await.map_err(thrown)?);
    }
    Ok(rows)
}

fn push(rows: &Array, embeddings: &[Vec<f32>]) {
    for embedding in embeddings {
        rows.push(&Float32Array::from(&embedding[..]));
    }
}
