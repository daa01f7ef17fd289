//! FastVLM and MobileCLIP in a browser: a WebAssembly module for a Worker, whose JavaScript face is [`Engine`] and
//! [`probe`].
//!
//! The page hands over the files of a model as an object that reads ranges of bytes ([`ModelFiles`]), so that no file
//! is ever held whole; pictures come as pixels, answers go back as JSON. What is thrown is an `Error` with one
//! sentence that says what is wrong.
//!
//! This crate must never know how a file comes to the page, and nothing of the page itself.

mod clip;
mod engine;
mod error;
mod files;
mod pixels;
mod probe;
mod request;
mod turn;
mod vlm;

pub use engine::Engine;
pub use files::ModelFiles;
pub use probe::probe;

use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(message: &str);
}

/// Runs when the module starts: a bug of ours must leave its message where somebody can read it.
#[wasm_bindgen(start)]
pub fn start() {
    std::panic::set_hook(Box::new(|panic| console_error(&panic.to_string())));
}
