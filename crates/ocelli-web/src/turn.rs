//! Turns of the page's event loop.

use js_sys::{Function, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    type MessageChannel;
    type MessagePort;

    #[wasm_bindgen(constructor)]
    fn new() -> MessageChannel;

    #[wasm_bindgen(method, getter)]
    fn port1(this: &MessageChannel) -> MessagePort;

    #[wasm_bindgen(method, getter)]
    fn port2(this: &MessageChannel) -> MessagePort;

    #[wasm_bindgen(method, setter)]
    fn set_onmessage(this: &MessagePort, listener: &Function);

    #[wasm_bindgen(method, js_name = postMessage)]
    fn post_message(this: &MessagePort, message: &JsValue);

    #[wasm_bindgen(method)]
    fn close(this: &MessagePort);
}

/// Lets everything run that waits, such as the message that asks to stop.
///
/// By a message to itself: a promise alone lets no other message in, and a timer waits four milliseconds.
pub(crate) async fn next_turn() {
    // Where there are no channels, nothing else can run.
    if Reflect::get(&js_sys::global(), &"MessageChannel".into()).is_ok_and(|found| found.is_function()) {
        let channel = MessageChannel::new();
        let (here, there) = (channel.port1(), channel.port2());
        let turn = Promise::new(&mut |resolve, _| {
            here.set_onmessage(&resolve);
            there.post_message(&JsValue::NULL);
        });
        // It is only ever resolved.
        let _ = JsFuture::from(turn).await;
        here.close();
    }
}
