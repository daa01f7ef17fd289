// The Worker: one model, calls one after another, cancellation at any time.

import type { Engine, EngineImage } from "../engine.js";
import { OcelliError, abortError, sentence, toWire } from "../error.js";
import type { Answer, FromWorker, LoadParams, Loaded, Method, Methods, ToWorker } from "../protocol.js";
import type { DeviceName, EngineInfo, MemoryPlan, ProgressEvent } from "../types.js";
import { openModel, type OpenModel } from "./model.js";
import { chooseDevice, startRuntime, type Runtime } from "./runtime.js";

type Call = Extract<ToWorker, { type: "call" }>;

/** Why the engine runs on another device than it was given: its self-test is the judge. */
const CHANGED: { [name in DeviceName]: string } = {
  wasm: "WebAssembly on the processor, because the engine's self-test found the GPU unfit",
  webgpu: "WebGPU, which the engine chose",
};

let runtime: Runtime | null = null;
let engine: Engine | null = null;
/** Reads of the model may go on as long as the engine lives. */
let model: OpenModel | null = null;

/** Calls that have not ended, running or waiting. */
const cancelled = new Map<number, AbortController>();
const planAnswers = new Map<number, (proceed: boolean) => void>();
let running: number | null = null;
let queue: Promise<void> = Promise.resolve();

self.addEventListener("message", ({ data }: MessageEvent<ToWorker>) => {
  if (data.type === "cancel") return cancel(data.id);
  if (data.type === "plan-answer") return planAnswers.get(data.id)?.(data.proceed);
  cancelled.set(data.id, new AbortController());
  queue = queue.then(() => run(data));
});

function cancel(id: number): void {
  cancelled.get(id)?.abort();
  planAnswers.get(id)?.(false);
  if (running === id) engine?.cancel();
}

async function run(call: Call): Promise<void> {
  const { id } = call;
  running = id;
  try {
    const value = await perform(call, cancelled.get(id)!.signal);
    send({ type: "done", id, value }, value !== null && "rows" in value ? value.rows.map((row) => row.buffer) : []);
  } catch (error) {
    send({ type: "failed", id, error: toWire(error) });
  } finally {
    running = null;
    cancelled.delete(id);
  }
}

function perform(call: Call, signal: AbortSignal): Promise<Methods[Method]["value"]> {
  switch (call.method) {
    case "load":
      return load(call.id, call.params, signal);
    case "generate":
      return generate(call.id, call.params, signal);
    case "embed_images":
      return embed(async (loaded) => loaded.embed_images(call.params.images.map(pixels)));
    case "embed_texts":
      return embed((loaded) => loaded.embed_texts(call.params.texts));
    case "memory":
      return memory();
  }
}

async function load(id: number, params: LoadParams, signal: AbortSignal): Promise<Loaded> {
  const report = (event: ProgressEvent): void => send({ type: "event", id, event });
  // First what is small and may be impossible, then what is large.
  runtime = await startRuntime(params.engine_url);
  const choice = chooseDevice(params.device, runtime.probe);
  report({ status: "device", ...choice });
  model = await openModel({
    url: params.url,
    device: choice.device,
    storage: params.storage,
    retries: params.retries,
    signal,
    report,
    approve: (plan) => approve(id, plan, signal),
  });
  if (signal.aborted) throw abortError();
  engine = await loadEngine(runtime, model, params, choice.device, report);
  if (signal.aborted) throw abortError();
  const now = info(engine);
  if (now.device !== choice.device) {
    // The engine's self-test found the GPU wrong, or it failed to start.
    report({ status: "device", device: now.device, adapter: now.adapter, reason: CHANGED[now.device] });
  }
  report({ status: "ready", task: params.task, model: model.model, device: now.device });
  const logit_scale = now.kind === "mobileclip" ? engine.logit_scale() : null;
  return { model: model.model, info: now, bytes_downloaded: model.bytes_downloaded, logit_scale };
}

/** Loads on the chosen device; with "auto", a GPU that fails gives way to the processor. */
async function loadEngine(
  { module }: Runtime,
  { files }: OpenModel,
  params: LoadParams,
  device: DeviceName,
  report: (event: ProgressEvent) => void,
): Promise<Engine> {
  const on = (name: DeviceName): Promise<Engine> => {
    const options = { device: name, ...(params.dtype === null ? {} : { dtype: params.dtype }) };
    return module.Engine.load(files, JSON.stringify(options), (stage, done, total) =>
      report({ status: "loading", stage, done, total }),
    );
  };
  try {
    return await on(device);
  } catch (error) {
    if (device === "wasm" || params.device !== "auto") throw error;
    const message = `The model could not be loaded on the GPU (${sentence(error)}); the processor is used.`;
    report({ status: "warning", code: "device-fallback", message });
    return on("wasm");
  }
}

function approve(id: number, plan: MemoryPlan, signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve, reject) => {
    planAnswers.set(id, (proceed) => {
      planAnswers.delete(id);
      if (signal.aborted) reject(abortError());
      else resolve(proceed);
    });
    send({ type: "plan", id, plan });
  });
}

async function generate(id: number, params: Methods["generate"]["params"], signal: AbortSignal): Promise<Answer> {
  const loaded = ready();
  if (signal.aborted) throw abortError();
  const images = params.images.map(pixels);
  const answer = await loaded
    .generate(images, JSON.stringify(params.request), (text) => send({ type: "piece", id, text }))
    .catch(engineError);
  return { ...(JSON.parse(answer) as Omit<Answer, "device">), device: info(loaded).device };
}

async function embed(run: (engine: Engine) => Promise<Float32Array[]>): Promise<Methods["embed_texts"]["value"]> {
  const loaded = ready();
  const start = performance.now();
  const rows = await run(loaded).catch(engineError);
  // The engine may answer views of its memory, which cannot leave the Worker.
  return { rows: rows.map((row) => row.slice()), embed_ms: performance.now() - start, device: info(loaded).device };
}

async function memory(): Promise<Methods["memory"]["value"]> {
  return { weight_bytes: info(ready()).weight_bytes, wasm_bytes: runtime?.memory?.buffer.byteLength ?? null };
}

/** What the engine is now: a GPU that is lost may have given way to the processor. */
function info(engine: Engine): EngineInfo {
  return JSON.parse(engine.info()) as EngineInfo;
}

function ready(): Engine {
  if (engine === null) throw new OcelliError("usage", "no model is loaded");
  return engine;
}

function engineError(error: unknown): never {
  const message = sentence(error);
  if (/\blost\b/i.test(message) && /device|gpu/i.test(message)) throw new OcelliError("device-lost", message);
  throw error;
}

/** RGBA of a picture. The picture is used up. */
function pixels(bitmap: ImageBitmap): EngineImage {
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (context === null) throw new OcelliError("image", `a picture of ${width} by ${height} does not fit in a canvas`);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  return { data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength), width, height };
}

function send(message: FromWorker, transfer: Transferable[] = []): void {
  (self as unknown as { postMessage(message: FromWorker, transfer: Transferable[]): void }).postMessage(message, transfer);
}
