//! Failures as JavaScript sees them.

use wasm_bindgen::JsValue;

/// An `Error` whose message is that of `failure`.
pub(crate) fn thrown(failure: impl std::fmt::Display) -> JsValue {
    js_sys::Error::new(&failure.to_string()).into()
}

/// What was thrown, in words.
pub(crate) fn message(thrown: &JsValue) -> String {
    let message =
        js_sys::Reflect::get(thrown, &"message".into()).ok().and_then(|message| message.as_string());
    message.or_else(|| thrown.as_string()).unwrap_or_else(|| "an unknown error".to_owned())
}
