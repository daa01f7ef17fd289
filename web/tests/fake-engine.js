// Stands in for the engine in tests of everything around it: deterministic, a few lines, no model. It reads every
// byte of the model's files while it loads, and answers from the mean colour of the picture. `config.json` (or
// `open_clip_config.json`) steers it: {"fake": {"ms_per_token", "fail_on", "lose_device_at", "give_way_at"}}.

const COLOURS = { red: [200, 30, 30], green: [30, 160, 30], blue: [30, 60, 200], white: [240, 240, 240], black: [10, 10, 10] };

export default async function start() {
  return { memory: new WebAssembly.Memory({ initial: 16 }) };
}

export async function probe() {
  const adapter = await navigator.gpu?.requestAdapter();
  const simd = { simd: true, relaxed: true };
  if (!adapter) return JSON.stringify({ webgpu: null, reason: "this browser offers no WebGPU adapter", ...simd });
  const name = [adapter.info.vendor, adapter.info.architecture].join(" ");
  const fallback = adapter.info.isFallbackAdapter;
  return JSON.stringify({ webgpu: { adapter: name, features: [...adapter.features], limits: {}, fallback }, ...simd });
}

export class Engine {
  #info;
  #settings;
  #cancelled = false;
  #calls = 0;

  static async load(files, options_json, on_progress) {
    const { device } = JSON.parse(options_json);
    const clip = files.names().includes("open_clip_config.json");
    const config = JSON.parse(new TextDecoder().decode(all(files, clip ? "open_clip_config.json" : "config.json")));
    if (config.fake.fail_on === device) throw new Error("the device ran out of memory");
    let weight_bytes = 0;
    let checksum = 0;
    const names = files.names();
    for (const [i, name] of names.entries()) {
      const bytes = all(files, name);
      weight_bytes += bytes.length;
      for (let at = 0; at < bytes.length; at += 97) checksum = (checksum * 31 + bytes[at]) >>> 0;
      on_progress("weights", i + 1, names.length);
      await new Promise((wake) => setTimeout(wake, 0));
    }
    const engine = new Engine();
    engine.#settings = config.fake;
    engine.#info = {
      kind: clip ? "mobileclip" : "fastvlm",
      device,
      adapter: device === "webgpu" ? JSON.parse(await probe()).webgpu.adapter : null,
      dtype: "f32",
      quant: null,
      weight_bytes,
      resolution: 256,
      ...(clip ? { embed_dim: 3 } : {}),
      simd: "simd128",
      checksum,
    };
    return engine;
  }

  info() {
    return JSON.stringify(this.#info);
  }

  async generate(images, request_json, on_text) {
    const request = JSON.parse(request_json);
    this.#calls += 1;
    this.#cancelled = false;
    if (this.#calls === this.#settings.give_way_at) this.#info = { ...this.#info, device: "wasm", adapter: null };
    const begin = performance.now();
    const words = sentence(images, request).split(/(?<= )/).slice(0, request.max_new_tokens ?? 64);
    const pause = this.#settings.ms_per_token ?? 5;
    let text = "";
    let ttft_ms = 0;
    const token_ids = [];
    for (const word of words) {
      await new Promise((wake) => setTimeout(wake, pause));
      if (this.#calls === this.#settings.lose_device_at) throw new Error("the GPU device was lost (reset); load the model again");
      if (this.#cancelled) break;
      text += word;
      token_ids.push(hash(word) % 1000);
      on_text(word);
      ttft_ms ||= performance.now() - begin;
    }
    const total_ms = performance.now() - begin;
    const count = token_ids.length;
    return JSON.stringify({
      text,
      token_ids,
      finish_reason: this.#cancelled ? "cancelled" : request.max_new_tokens <= count ? "length" : "stop",
      usage: { prompt_tokens: 20, image_tokens: 16 * images.length, completion_tokens: count, cached_tokens: 4 },
      timings: {
        preprocess_ms: 0.5,
        encode_ms: ttft_ms / 2,
        prefill_ms: ttft_ms / 4,
        ttft_ms,
        decode_ms_per_token: (total_ms - ttft_ms) / Math.max(count - 1, 1),
        tokens_per_s: (1000 * count) / total_ms,
        total_ms,
      },
    });
  }

  cancel() {
    this.#cancelled = true;
  }

  async embed_images(images) {
    return images.map((image) => unit(mean(image)));
  }

  async embed_texts(texts) {
    return texts.map((text) => unit(Object.entries(COLOURS).find(([name]) => text.includes(name))?.[1] ?? [1, 2, 3]));
  }

  logit_scale() {
    return 100;
  }

  free() {}
}

function all(files, name) {
  const target = new Uint8Array(files.size(name));
  const HALF = Math.ceil(target.length / 2);
  files.read(name, 0, target.subarray(0, HALF));
  files.read(name, HALF, target.subarray(HALF));
  return target;
}

function sentence(images, request) {
  const asked = request.prompt ?? request.messages.at(-1).content;
  const seen = images.map((image) => `${nearest(mean(image))} picture of ${image.width} by ${image.height} points`);
  return `A ${seen.join(" and a ")}. You asked: ${asked} This is all that a stand-in can tell about it.`;
}

function mean({ data }) {
  const sum = [0, 0, 0];
  for (let at = 0; at < data.length; at += 4) for (let c = 0; c < 3; c++) sum[c] += data[at + c];
  return sum.map((value) => value / (data.length / 4));
}

function nearest(colour) {
  const distance = (other) => Math.hypot(...other.map((value, c) => value - colour[c]));
  return Object.entries(COLOURS).sort(([, a], [, b]) => distance(a) - distance(b))[0][0];
}

function unit(vector) {
  const length = Math.hypot(...vector) || 1;
  return Float32Array.from(vector, (value) => value / length);
}

function hash(text) {
  let value = 7;
  for (const letter of text) value = (value * 31 + letter.codePointAt(0)) >>> 0;
  return value;
}
