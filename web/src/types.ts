// What callers of the package see and the Worker speaks: events, options and results. Names and units follow the command line's JSON
// (docs/ARCHITECTURE.md): `_ms`, `_bytes`, `ttft`, `finish_reason`.

export type Task =
  | "image-text-to-text"
  | "image-to-text"
  | "zero-shot-image-classification"
  | "image-feature-extraction"
  | "feature-extraction";

export type DeviceName = "webgpu" | "wasm";

/** What a load will need, known before the first weight is downloaded. */
export interface MemoryPlan {
  model: string;
  url: string;
  licence: string | null;
  device: DeviceName;
  /** "memory" means that nothing can be kept here: the next visit downloads again. */
  storage: "opfs" | "memory";
  files: { name: string; bytes: number | null; stored_bytes: number }[];
  /** Size of the model's files; null when a server does not tell one of them. */
  total_bytes: number | null;
  stored_bytes: number;
  download_bytes: number | null;
  /** From the manifest; null without one. */
  weights_bytes: number | null;
  activations_bytes: number | null;
  /** What the browser grants this origin, and what is used of it; null when it does not say. */
  quota_bytes: number | null;
  usage_bytes: number | null;
  /** False when the download does not fit in the quota: the load then fails with code "quota". */
  fits: boolean;
}

export type ProgressEvent =
  | { status: "device"; device: DeviceName; adapter: string | null; reason: string }
  | { status: "plan"; plan: MemoryPlan }
  | { status: "waiting"; message: string }
  | { status: "initiate"; name: string; file: string }
  | { status: "download"; name: string; file: string; resumed_from: number }
  | { status: "progress"; name: string; file: string; loaded: number; total: number | null; progress: number | null }
  | { status: "retry"; name: string; file: string; attempt: number; message: string }
  | { status: "done"; name: string; file: string; stored: boolean }
  /** Over all files: `loaded` counts what is here, `downloaded` what came over the network in this load. */
  | { status: "progress_total"; loaded: number; total: number | null; progress: number | null; downloaded: number }
  | { status: "loading"; stage: string; done: number; total: number }
  | { status: "warning"; code: "memory-only" | "offline" | "device-fallback"; message: string }
  | { status: "ready"; task: Task; model: string; device: DeviceName };

/** What the engine says about itself once a model is loaded. */
export interface EngineInfo {
  kind: "fastvlm" | "mobileclip";
  device: DeviceName;
  adapter: string | null;
  dtype: string;
  quant: string | null;
  weight_bytes: number;
  resolution: number;
  embed_dim?: number;
  simd: "simd128" | "relaxed";
}

export interface Message {
  role: "user" | "assistant";
  content: string;
}

export interface GenerateOptions {
  max_new_tokens?: number;
  /** 0 (the default) is greedy. */
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  repetition_penalty?: number;
  seed?: number;
  /** Texts that end the answer. */
  stop?: string[];
  ignore_eos?: boolean;
  system?: string;
  resolution?: number;
  fit?: "pad" | "crop";
  /** Ends the answer at the next token. That is no error: `finish_reason` is "cancelled", the text stays. */
  signal?: AbortSignal;
}

export interface Usage {
  prompt_tokens: number;
  image_tokens: number;
  completion_tokens: number;
  cached_tokens: number;
}

export interface Timings {
  preprocess_ms: number;
  encode_ms: number;
  prefill_ms: number;
  ttft_ms: number;
  decode_ms_per_token: number;
  tokens_per_s: number;
  total_ms: number;
}

/** What every result carries. */
export interface Provenance {
  /** Where it was computed: not always where the model was loaded, for a GPU may be lost. */
  device: DeviceName;
  /** Bytes of the model that this load took from the network; 0 when all of it was kept from before. */
  bytes_downloaded: number;
  /** Always 0: nothing is sent anywhere. */
  bytes_sent: 0;
}

export interface Generation extends Provenance {
  text: string;
  token_ids: number[];
  finish_reason: "stop" | "length" | "cancelled";
  usage: Usage;
  timings: Timings;
  ttft_ms: number;
  encode_ms: number;
  prefill_ms: number;
  tokens_per_s: number;
}

export interface LabelScore {
  label: string;
  /** Probability among the labels given. */
  score: number;
  /** Cosine between picture and label. */
  similarity: number;
}

export interface Embeddings extends Provenance {
  /** [how many, width] */
  dims: [number, number];
  /** The rows one after another, each of length 1. */
  data: Float32Array;
  rows: Float32Array[];
  embed_ms: number;
}

export interface Memory {
  /** Weights on the device. */
  weight_bytes: number;
  /** The engine's linear memory; null when it does not tell. */
  wasm_bytes: number | null;
}

export interface StoredModel {
  id: string;
  url: string;
  model: string;
  licence: string | null;
  stored_bytes: number;
  total_bytes: number | null;
  complete: boolean;
}

export interface Probe {
  webgpu: { adapter: string; features: string[]; limits: Record<string, number>; fallback?: boolean } | null;
  reason?: string;
  simd: boolean;
  relaxed: boolean;
}
