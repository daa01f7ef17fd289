// The messages between page and Worker. Each call has a number; everything about it carries that number.

import type { WireError } from "./error.js";
import type {
  DeviceName,
  EngineInfo,
  GenerateOptions,
  Generation,
  Memory,
  MemoryPlan,
  Message,
  ProgressEvent,
  Task,
} from "./types.js";

export interface LoadParams {
  task: Task;
  /** Absolute, ending in a slash. */
  url: string;
  device: "webgpu" | "wasm" | "auto";
  dtype: string | null;
  storage: "auto" | "memory";
  retries: number;
  engine_url: string | null;
}

export interface Loaded {
  model: string;
  info: EngineInfo;
  bytes_downloaded: number;
  /** What similarities are multiplied by; null for a FastVLM. */
  logit_scale: number | null;
}

export interface GenerateParams {
  images: ImageBitmap[];
  request: Omit<GenerateOptions, "signal"> & { prompt?: string; messages?: Message[] };
}

/** What the engine answers to `generate`, and where it ran. */
export type Answer = Pick<Generation, "text" | "token_ids" | "finish_reason" | "usage" | "timings" | "device">;

export interface Embedded {
  rows: Float32Array[];
  embed_ms: number;
  device: DeviceName;
}

/** Method names with what goes in and what comes out. */
export interface Methods {
  load: { params: LoadParams; value: Loaded };
  generate: { params: GenerateParams; value: Answer };
  embed_images: { params: { images: ImageBitmap[] }; value: Embedded };
  embed_texts: { params: { texts: string[] }; value: Embedded };
  memory: { params: null; value: Memory };
}

export type Method = keyof Methods;

export type ToWorker =
  | { [M in Method]: { type: "call"; id: number; method: M; params: Methods[M]["params"] } }[Method]
  | { type: "cancel"; id: number }
  | { type: "plan-answer"; id: number; proceed: boolean };

export type FromWorker =
  | { type: "event"; id: number; event: ProgressEvent }
  | { type: "plan"; id: number; plan: MemoryPlan }
  | { type: "piece"; id: number; text: string }
  | { type: "done"; id: number; value: Methods[Method]["value"] }
  | { type: "failed"; id: number; error: WireError };
