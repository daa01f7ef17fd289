//! A loaded model, as JavaScript sees it.

use std::sync::Arc;

use js_sys::{Array, Function};
use ocelli::{
    AdapterChoice, CancelToken, ClipCheckpoint, ClipOptions, DType, DeviceChoice, FastVlm, Folder,
    LoadOptions, MobileClip,
};
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::error::thrown;
use crate::files::{ModelFiles, PageFolder};
use crate::probe::webgpu;
use crate::request::Load;
use crate::turn::next_turn;
use crate::{clip, vlm};

/// A model that is ready to answer.
#[wasm_bindgen]
pub struct Engine {
    model: Model,
    cancel: CancelToken,
}

#[allow(clippy::large_enum_variant)] // There is one of them.
enum Model {
    FastVlm(FastVlm),
    MobileClip(MobileClip),
}

/// Where networks run.
fn device(asked: Option<&str>) -> Result<DeviceChoice, String> {
    match asked {
        None | Some("wasm") => Ok(DeviceChoice::Cpu),
        Some("webgpu") => Ok(DeviceChoice::Gpu(AdapterChoice::Best)),
        Some(other) => Err(format!("device is \"{other}\"; it can be \"wasm\" or \"webgpu\"")),
    }
}

fn dtype(asked: Option<&str>) -> Result<DType, String> {
    match asked {
        None | Some("auto" | "bf16") => Ok(DType::Bf16),
        Some("f32") => Ok(DType::F32),
        Some(other) => Err(format!("dtype is \"{other}\"; it can be \"auto\", \"bf16\" or \"f32\"")),
    }
}

#[wasm_bindgen]
impl Engine {
    /// Load the model in these files; its kind is told from them.
    ///
    /// `options_json` has `device` ("wasm", "webgpu") and `dtype` ("auto", "bf16", "f32"). `on_progress` gets a stage, and how
    /// many of how many bytes are done.
    ///
    /// # Errors
    /// Rejects with an `Error` whose message says what is wrong.
    pub async fn load(
        files: ModelFiles,
        options_json: String,
        on_progress: Function,
    ) -> Result<Engine, JsValue> {
        let options: Load = serde_json::from_slice(options_json.as_bytes()).map_err(thrown)?;
        let device = device(options.device.as_deref()).map_err(thrown)?;
        if matches!(device, DeviceChoice::Gpu(_)) {
            webgpu().await.map_err(|why| thrown(format!("{why}: use device \"wasm\"")))?;
        }
        let dtype = dtype(options.dtype.as_deref()).map_err(thrown)?;
        next_turn().await;
        let folder = Arc::new(PageFolder::new(files, on_progress)?);
        let model = if ClipCheckpoint::is_clip_folder(&*folder) {
            let shared: Arc<dyn Folder> = Arc::clone(&folder) as _;
            let options = ClipOptions { dtype, device, threads: 1, ..ClipOptions::default() };
            Model::MobileClip(MobileClip::load_folder(shared, &options).await.map_err(thrown)?)
        } else {
            let options = LoadOptions { dtype, device, threads: 1, ..LoadOptions::default() };
            Model::FastVlm(FastVlm::load_folder(&*folder, &options).await.map_err(thrown)?)
        };
        folder.loaded();
        Ok(Engine { model, cancel: CancelToken::default() })
    }

    /// What the model is and how it runs, as JSON: `kind`, `device`, `adapter`, `dtype`, `quant`, `weight_bytes`,
    /// `resolution`, `embed_dim` of a MobileCLIP, `simd`, and a `note` where another device runs than was asked for.
    pub fn info(&self) -> String {
        let simd = if cfg!(target_feature = "relaxed-simd") { "relaxed" } else { "simd128" };
        let mut info = json!({ "simd": simd });
        let (dtype, device, more) = match &self.model {
            Model::FastVlm(model) => (
                model.dtype(),
                (model.device_name(), model.kernels(), model.device_note()),
                json!({
                    "kind": "fastvlm",
                    "quant": model.quant_name(),
                    "weight_bytes": model.weight_bytes(),
                    "resolution": model.config().image_size,
                }),
            ),
            Model::MobileClip(model) => (
                model.dtype(),
                (model.device_name(), model.kernels(), model.device_note()),
                json!({
                    "kind": "mobileclip",
                    "quant": null,
                    "weight_bytes": model.memory().weights_bytes,
                    "resolution": model.config().image.size,
                    "embed_dim": model.config().embed_dim,
                }),
            ),
        };
        let (device, kernels, note) = device;
        let on_gpu = device == "gpu";
        info["device"] = if on_gpu { "webgpu" } else { "wasm" }.into();
        info["adapter"] = on_gpu.then_some(kernels).into();
        info["note"] = note.into();
        info["dtype"] = if dtype == DType::F32 { "f32" } else { "bf16" }.into();
        if let (Some(info), serde_json::Value::Object(more)) = (info.as_object_mut(), more) {
            info.extend(more);
        }
        info.to_string()
    }

    /// Answer a question about pictures, `{data, width, height}[]` in RGBA; `request_json` is described in
    /// docs/browser.md. `on_text` gets each piece of text. Resolves to JSON: `text`, `token_ids`, `finish_reason`,
    /// `usage`, `timings`.
    ///
    /// # Errors
    /// Rejects with an `Error` whose message says what is wrong.
    pub async fn generate(
        &self,
        images: Array,
        request_json: String,
        on_text: Function,
    ) -> Result<String, JsValue> {
        let Model::FastVlm(model) = &self.model else {
            return Err(thrown("this model compares pictures and texts; it does not answer: load a FastVLM"));
        };
        self.cancel.reset();
        vlm::generate(model, &images, &request_json, &on_text, self.cancel.clone()).await
    }

    /// End the running answer; its `finish_reason` is "cancelled".
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Embeddings of pictures, of length 1.
    ///
    /// # Errors
    /// Rejects with an `Error` whose message says what is wrong.
    pub async fn embed_images(&self, images: Array) -> Result<Array, JsValue> {
        clip::embed_images(self.clip()?, &images).await
    }

    /// Embeddings of texts, of length 1.
    ///
    /// # Errors
    /// Rejects with an `Error` whose message says what is wrong.
    pub async fn embed_texts(&self, texts: Vec<String>) -> Result<Array, JsValue> {
        clip::embed_texts(self.clip()?, &texts).await
    }

    /// What a cosine is multiplied by before the softmax over labels.
    ///
    /// # Errors
    /// Throws when the model is no MobileCLIP.
    pub fn logit_scale(&self) -> Result<f32, JsValue> {
        Ok(self.clip()?.config().logit_scale)
    }
}

impl Engine {
    fn clip(&self) -> Result<&MobileClip, JsValue> {
        match &self.model {
            Model::MobileClip(model) => Ok(model),
            Model::FastVlm(_) => {
                Err(thrown("this model answers questions; for embeddings load a MobileCLIP"))
            }
        }
    }
}
