//! What this browser can do.

use js_sys::{Array, Function, Promise, Reflect, Uint8Array, WebAssembly};
use serde_json::{Map, Value, json};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

/// Limits that decide what runs.
const LIMITS: [&str; 6] = [
    "maxBufferSize",
    "maxStorageBufferBindingSize",
    "maxStorageBuffersPerShaderStage",
    "maxComputeWorkgroupStorageSize",
    "maxComputeInvocationsPerWorkgroup",
    "maxComputeWorkgroupsPerDimension",
];

/// A module with one function, `i8x16.relaxed_swizzle` of two constants: valid only where relaxed SIMD is.
const RELAXED: [u8; 36] = [
    0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, // header
    0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b, // types: () -> v128
    0x03, 0x02, 0x01, 0x00, // functions
    0x0a, 0x0f, 0x01, 0x0d, 0x00, // code: one body without locals
    0x41, 0x00, 0xfd, 0x0f, // i32.const 0, i8x16.splat
    0x41, 0x00, 0xfd, 0x0f, // the same
    0xfd, 0x80, 0x02, 0x0b, // i8x16.relaxed_swizzle, end
];

/// JSON: `webgpu` (`adapter`, `features`, `limits`, `fallback`) or null and a `reason`, `simd`, `relaxed`.
#[wasm_bindgen]
pub async fn probe() -> String {
    let mut found = Map::new();
    match webgpu().await {
        Ok(adapter) => found.insert("webgpu".into(), adapter),
        Err(reason) => {
            found.insert("reason".into(), reason.into());
            found.insert("webgpu".into(), Value::Null)
        }
    };
    found.insert("simd".into(), cfg!(target_feature = "simd128").into());
    let relaxed = WebAssembly::validate(&Uint8Array::from(&RELAXED[..])).unwrap_or(false);
    found.insert("relaxed".into(), relaxed.into());
    Value::Object(found).to_string()
}

/// The adapter, or why there is none.
pub(crate) async fn webgpu() -> Result<Value, String> {
    let get = |from: &JsValue, name: &str| Reflect::get(from, &name.into()).unwrap_or(JsValue::UNDEFINED);
    let gpu = get(&get(&js_sys::global(), "navigator"), "gpu");
    if gpu.is_falsy() {
        return Err("this browser has no WebGPU".to_owned());
    }
    let none = || "this browser offers no WebGPU adapter".to_owned();
    let request: Function = get(&gpu, "requestAdapter").dyn_into().map_err(|_| none())?;
    let asked: Promise = request.call0(&gpu).and_then(JsCast::dyn_into).map_err(|_| none())?;
    let adapter = JsFuture::from(asked).await.map_err(|_| none())?;
    if adapter.is_falsy() {
        return Err(none());
    }
    let info = get(&adapter, "info");
    let words = ["vendor", "architecture", "device", "description"].map(|name| get(&info, name).as_string());
    let words: Vec<String> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
    let features = Array::from(&get(&adapter, "features"));
    let features: Vec<String> = features.iter().filter_map(|feature| feature.as_string()).collect();
    let limits = get(&adapter, "limits");
    let limits =
        LIMITS.iter().filter_map(|name| Some(((*name).to_owned(), get(&limits, name).as_f64()?.into())));
    let limits: Map<String, Value> = limits.collect();
    let adapter = if words.is_empty() { "WebGPU".to_owned() } else { words.join(" ") };
    let fallback = get(&info, "isFallbackAdapter").is_truthy();
    Ok(json!({ "adapter": adapter, "features": features, "limits": limits, "fallback": fallback }))
}
