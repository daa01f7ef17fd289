//! Pictures as a canvas has them.

use js_sys::{Array, Uint8Array};
use ocelli::Rgb8;
use wasm_bindgen::prelude::*;

use crate::error::thrown;

#[wasm_bindgen]
extern "C" {
    type Pixels;

    #[wasm_bindgen(method, getter)]
    fn data(this: &Pixels) -> JsValue;

    #[wasm_bindgen(method, getter)]
    fn width(this: &Pixels) -> JsValue;

    #[wasm_bindgen(method, getter)]
    fn height(this: &Pixels) -> JsValue;
}

/// The pictures of `{data, width, height}[]`, `data` being RGBA.
///
/// # Errors
/// When the bytes are not width times height pixels.
pub(crate) fn pictures(images: &Array) -> Result<Vec<Rgb8>, JsValue> {
    images.iter().map(picture).collect()
}

fn picture(image: JsValue) -> Result<Rgb8, JsValue> {
    let image: Pixels = image.unchecked_into();
    let rgba = Uint8Array::new(&image.data()).to_vec();
    let side =
        |value: JsValue| value.as_f64().filter(|side| side.fract() == 0.0 && (0.0..1e9).contains(side));
    let picture = side(image.height())
        .zip(side(image.width()))
        .and_then(|(height, width)| Rgb8::from_rgba(height as usize, width as usize, &rgba));
    picture.ok_or_else(|| {
        let bytes = rgba.len();
        thrown(format!("a picture of {bytes} bytes is not width times height pixels of four bytes (RGBA)"))
    })
}
