// The Bench tab: what this device does, in numbers that can be saved and compared.

import type { Generation, ImageTextPipeline } from "ocelli";
import { byId, make, milliseconds, save } from "./dom.js";

/** The schema of the saved JSON, which docs/browser.md describes. */
const FORMAT = 1;
const QUESTION = "Describe the image.";
const SIDE_PX = 512;

const STEPS: [string, (result: Generation) => number, "ms" | "rate"][] = [
  ["Picture to features", ({ encode_ms }) => encode_ms, "ms"],
  ["Prompt", ({ prefill_ms }) => prefill_ms, "ms"],
  ["First token", ({ ttft_ms }) => ttft_ms, "ms"],
  ["Each further token", ({ timings }) => timings.decode_ms_per_token, "ms"],
  ["Tokens a second", ({ tokens_per_s }) => tokens_per_s, "rate"],
];

export class Bench {
  readonly #model: () => ImageTextPipeline | null;
  #stop: AbortController | null = null;
  #report: object | null = null;

  /** `model` answers the loaded model when it is free. */
  constructor(model: () => ImageTextPipeline | null) {
    this.#model = model;
    byId("bench-form").addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#run();
    });
    byId("bench-stop").addEventListener("click", () => this.#stop?.abort());
    byId("bench-save").addEventListener("click", () => save("ocelli-bench.json", "application/json", JSON.stringify(this.#report, null, 2)));
  }

  /** Called when the tab is shown. */
  async show(): Promise<void> {
    const pipe = this.#model();
    byId<HTMLButtonElement>("bench-start").disabled = pipe === null || this.#stop !== null;
    if (this.#stop === null && this.#report === null) {
      byId("bench-status").textContent = pipe === null ? "Load a model in the Look tab first, and stop it there." : `${pipe.model} is ready.`;
    }
    const { shown, details } = await describeMachine();
    byId("bench-software").hidden = pipe === null || !onSoftware(pipe, details);
    const where = pipe?.device === "webgpu" ? "WebGPU" : "WebAssembly on the processor";
    const all = pipe === null ? shown : { "Model": `${pipe.model}, ${where}`, ...shown };
    byId("machine").replaceChildren(...Object.entries(all).flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)]));
  }

  async #run(): Promise<void> {
    const pipe = this.#model();
    if (pipe === null || this.#stop !== null) return;
    const runs = number("runs", 1, 100);
    const tokens = number("tokens", 2, 256);
    const stop = (this.#stop = new AbortController());
    byId<HTMLButtonElement>("bench-start").disabled = true;
    byId<HTMLButtonElement>("bench-stop").disabled = false;
    const status = byId("bench-status");
    const results: Generation[] = [];
    try {
      for (let run = 0; run <= runs && !stop.signal.aborted; run++) {
        status.textContent = run === 0 ? "Warming up…" : `Answer ${run} of ${runs}…`;
        const options = { max_new_tokens: tokens, ignore_eos: true, temperature: 0, signal: stop.signal };
        const result = await pipe(draw(run), QUESTION, options);
        if (run > 0 && result.finish_reason !== "cancelled") results.push(result);
        this.#table(results);
      }
      status.textContent = results.length === runs ? `Done: ${runs} answers of ${tokens} tokens.` : `Stopped after ${results.length} answers.`;
    } catch (error) {
      status.textContent = `It ended early: ${(error as Error).message}`;
    }
    this.#report = await makeReport(pipe, results, tokens);
    byId<HTMLButtonElement>("bench-save").disabled = results.length === 0;
    byId<HTMLButtonElement>("bench-stop").disabled = true;
    byId<HTMLButtonElement>("bench-start").disabled = false;
    this.#stop = null;
  }

  #table(results: Generation[]): void {
    const table = byId("bench-table");
    table.hidden = results.length === 0;
    table.querySelector("tbody")!.replaceChildren(
      ...STEPS.map(([name, value, unit]) => {
        const values = results.map(value);
        const cells = [quantile(values, 0.5), slow(values, unit)].map((number) => make("td", {}, unit === "ms" ? milliseconds(number) : number.toFixed(1)));
        return make("tr", {}, make("th", { scope: "row" }, name), ...cells);
      }),
    );
  }
}

/** P90 of what is better when small; of a rate, what nine in ten answers reach. */
function slow(values: number[], unit: "ms" | "rate"): number {
  return quantile(values, unit === "ms" ? 0.9 : 0.1);
}

/** The value at a rank: the smallest that at least this part of the values does not exceed. */
export function quantile(values: number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(Math.ceil(part * sorted.length) - 1, 0)] ?? NaN;
}

/** A picture that differs from run to run, so that nothing kept from the last one helps. */
function draw(run: number): OffscreenCanvas {
  const canvas = new OffscreenCanvas(SIDE_PX, SIDE_PX);
  const context = canvas.getContext("2d")!;
  context.fillStyle = "#e8e4dc";
  context.fillRect(0, 0, SIDE_PX, SIDE_PX);
  context.fillStyle = "#b03a2e";
  context.fillRect(60 + run, 80, 160, 160);
  context.fillStyle = "#1f618d";
  context.beginPath();
  context.arc(350, 340 - run, 90, 0, 2 * Math.PI);
  context.fill();
  return canvas;
}

async function makeReport(pipe: ImageTextPipeline, results: Generation[], tokens: number): Promise<object> {
  const { details } = await describeMachine();
  const steps = STEPS.map(([step, value, unit]) => {
    const values = results.map(value);
    return { step, unit: unit === "ms" ? "ms" : "tokens/s", median: quantile(values, 0.5), p90: slow(values, unit), values };
  });
  const { model, info, device } = pipe;
  return {
    format: FORMAT,
    at: new Date().toISOString(),
    model,
    device,
    info,
    correctness_only: onSoftware(pipe, details),
    question: QUESTION,
    side_px: SIDE_PX,
    tokens,
    runs: results.length,
    steps,
    memory: await pipe.memory().catch(() => null),
    machine: details,
  };
}

/** Whether a processor plays the GPU: then times mean nothing. */
function onSoftware({ device }: ImageTextPipeline, { adapter }: Machine): boolean {
  return device === "webgpu" && adapter?.software === true;
}

interface Gpu {
  requestAdapter(): Promise<{
    info: { vendor: string; architecture: string; device: string; description: string; isFallbackAdapter?: boolean };
    features: Iterable<string>;
    limits: { maxStorageBufferBindingSize: number; maxBufferSize: number; maxComputeInvocationsPerWorkgroup: number };
  } | null>;
}

interface Machine {
  adapter: { vendor: string; architecture: string; device: string; description: string; software: boolean; features: string[]; limits: object } | null;
  threads: number;
  user_agent: string;
  cross_origin_isolated: boolean;
}

async function describeMachine(): Promise<{ shown: { [term: string]: string }; details: Machine }> {
  const gpu = (navigator as { gpu?: Gpu }).gpu;
  const adapter = (await gpu?.requestAdapter().catch(() => null)) ?? null;
  const { vendor, architecture, device, description } = adapter?.info ?? { vendor: "", architecture: "", device: "", description: "" };
  const features = adapter === null ? [] : [...adapter.features].sort();
  const software = adapter?.info.isFallbackAdapter === true;
  const name = [vendor, architecture, device, description].filter((part) => part !== "").join(" ");
  const none = gpu === undefined ? "This browser has no WebGPU." : "There is no WebGPU adapter.";
  return {
    shown: {
      "GPU": adapter === null ? none : `${name || "Unnamed adapter"}${software ? " (software)" : ""}`,
      ...(features.length > 0 ? { "Features": features.join(", ") } : {}),
      "Processor threads": String(navigator.hardwareConcurrency),
      "Browser": navigator.userAgent,
    },
    details: {
      adapter: adapter === null ? null : { vendor, architecture, device, description, software, features, limits: pick(adapter.limits) },
      threads: navigator.hardwareConcurrency,
      user_agent: navigator.userAgent,
      cross_origin_isolated: crossOriginIsolated,
    },
  };
}

function pick(limits: { maxStorageBufferBindingSize: number; maxBufferSize: number; maxComputeInvocationsPerWorkgroup: number }): object {
  const { maxStorageBufferBindingSize, maxBufferSize, maxComputeInvocationsPerWorkgroup } = limits;
  return { maxStorageBufferBindingSize, maxBufferSize, maxComputeInvocationsPerWorkgroup };
}

function number(id: string, least: number, most: number): number {
  return Math.min(Math.max(Math.round(byId<HTMLInputElement>(id).valueAsNumber) || least, least), most);
}
