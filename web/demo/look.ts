// The Look tab: a source, a question, and answers about the newest frame for as long as the visitor wants.

import { OcelliError, type Generation, type ImageTextPipeline } from "ocelli";
import { button, byId, make, megabytes, milliseconds, say } from "./dom.js";
import { History } from "./history.js";
import { ChangeDetector, PictureSource, VideoSource, explain, type Source } from "./source.js";

const EXAMPLES = [
  "Describe the image.",
  "What colour is it?",
  "What is written here?",
  "How many objects are there?",
  "What am I holding in my hand?",
];

/** How long to wait before an unchanged picture is looked at again. */
const IDLE_MS = 150;

type Kind = Source["kind"];

export class Look {
  readonly #history = new History();
  readonly #changes = new ChangeDetector();
  readonly #video = byId<HTMLVideoElement>("video");
  readonly #picture = byId<HTMLImageElement>("picture");
  readonly #start = byId<HTMLButtonElement>("start");
  readonly #stop = byId<HTMLButtonElement>("stop");
  readonly #question = byId<HTMLTextAreaElement>("question");
  readonly #lost: (error: unknown) => void;
  #pipe: ImageTextPipeline | null = null;
  /** Where the last answer was computed, or the next one will be. */
  #device: ImageTextPipeline["device"] | null = null;
  #source: Source | null = null;
  /** Set while answers are made. */
  #running: AbortController | null = null;
  /** Resolves when they have ended. */
  #ended: Promise<void> = Promise.resolve();

  constructor(lost: (error: unknown) => void) {
    this.#lost = lost;
    byId("examples").replaceChildren(...EXAMPLES.map((text) => button(text, () => this.#useExample(text))));
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#begin();
    });
    this.#stop.addEventListener("click", () => this.#running?.abort());
    this.#question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId<HTMLFormElement>("ask").requestSubmit();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#running?.abort();
    });
    for (const input of document.querySelectorAll("input[name=source]")) {
      input.addEventListener("change", () => this.#chooseKind());
    }
    byId("choose").addEventListener("click", () => byId("file").click());
    byId<HTMLInputElement>("file").addEventListener("change", ({ target }) => {
      const file = (target as HTMLInputElement).files?.[0];
      if (file !== undefined) void this.open(file);
      (target as HTMLInputElement).value = "";
    });
    byId("camera").addEventListener("change", () => this.#closeSource());
    byId("screen-choice").hidden = navigator.mediaDevices?.getDisplayMedia === undefined;
    this.#chooseKind();
  }

  ready(pipe: ImageTextPipeline, why: string): void {
    this.#pipe = pipe;
    this.#device = pipe.device;
    byId("device").textContent = `${pipe.model}: ${why}.`;
    this.#update();
    void this.#showMemory();
  }

  get pipe(): ImageTextPipeline | null {
    return this.#running === null ? this.#pipe : null;
  }

  gone(): void {
    this.#pipe = null;
    this.#update();
  }

  /** Looks at a picture that was chosen, dropped or pasted, and asks at once. */
  async open(blob: Blob): Promise<void> {
    this.#running?.abort();
    await this.#ended;
    this.#setKind("picture");
    this.#closeSource();
    try {
      (await createImageBitmap(blob)).close();
    } catch {
      const name = blob instanceof File ? blob.name : "This";
      return this.#trouble("That is no picture", `${name} cannot be read as one. JPEG, PNG, WebP, GIF and AVIF can.`);
    }
    this.#source = new PictureSource(blob, this.#picture);
    this.#showSource();
    this.#update();
    this.#begin();
  }

  #kind(): Kind {
    return (document.querySelector("input[name=source]:checked") as HTMLInputElement).value as Kind;
  }

  #setKind(kind: Kind): void {
    document.querySelector<HTMLInputElement>(`input[name=source][value=${kind}]`)!.checked = true;
    byId("picture-row").hidden = kind !== "picture";
  }

  #chooseKind(): void {
    this.#running?.abort();
    this.#setKind(this.#kind());
    this.#closeSource();
    this.#update();
  }

  #useExample(text: string): void {
    this.#question.value = text;
    this.#question.focus();
  }

  /** Starts answering: once about a picture, on and on about a video. */
  #begin(): void {
    if (this.#pipe === null) return;
    // A new question while answers run: the next frame gets it, however little it changed.
    this.#changes.forget();
    if (this.#running !== null) return;
    this.#running = new AbortController();
    this.#ended = this.#run(this.#running.signal);
  }

  async #run(signal: AbortSignal): Promise<void> {
    this.#clearTrouble();
    this.#update();
    try {
      this.#source ??= await this.#openVideo();
      if (this.#source === null) return;
      this.#showSource();
      if (this.#source.kind === "picture") await this.#answer(await this.#source.frame(), signal, true);
      else await this.#follow(this.#source, signal);
    } catch (error) {
      this.#handle(error);
    } finally {
      this.#running = null;
      this.#pill(null);
      this.#update();
    }
  }

  /** Answers about the newest frame whenever the one before is answered. Frames in between are never kept. */
  async #follow(source: Source, signal: AbortSignal): Promise<void> {
    while (!signal.aborted && source.alive && this.#pipe !== null) {
      const frame = document.hidden ? null : await source.frame();
      if (frame === null || !this.#changes.accept(frame)) {
        frame?.close();
        this.#pill("Nothing changed", false);
        await new Promise((wake) => setTimeout(wake, IDLE_MS));
        continue;
      }
      this.#pill("Live", true);
      await this.#answer(frame, signal, false);
    }
    if (!source.alive && !signal.aborted) {
      this.#closeSource();
      this.#trouble(source.kind === "camera" ? "The camera is gone" : "The sharing has ended", "Start again to go on.");
    }
  }

  async #answer(frame: ImageBitmap | null, signal: AbortSignal, aloud: boolean): Promise<void> {
    if (frame === null || this.#pipe === null) return;
    const question = this.#question.value.trim() || EXAMPLES[0]!;
    const caption = byId("caption");
    caption.classList.add("old");
    try {
      const stream = this.#pipe.stream(frame, question, { signal, max_new_tokens: limit() });
      let text = "";
      for await (const piece of stream) {
        text += piece;
        caption.classList.remove("old");
        caption.textContent = text.trimStart();
      }
      const result = await stream.result;
      caption.classList.remove("old");
      caption.textContent = result.text.trim();
      this.#figures(result);
      this.#history.add(this.#source?.kind ?? "picture", question, result);
      say(result.text, aloud);
    } finally {
      frame.close();
    }
  }

  async #openVideo(): Promise<Source | null> {
    const kind = this.#kind();
    if (kind === "picture") {
      byId("choose").focus();
      return null;
    }
    try {
      if (kind === "screen") return await VideoSource.screen(this.#video);
      const source = await VideoSource.camera(this.#video, byId<HTMLSelectElement>("camera").value);
      await listCameras();
      return source;
    } catch (error) {
      const { title, text } = explain(error, kind);
      const instead = button("Look at a picture", () => {
        this.#setKind("picture");
        this.#chooseKind();
        byId("choose").focus();
      });
      this.#trouble(title, text, instead);
      return null;
    }
  }

  #handle(error: unknown): void {
    if (error instanceof DOMException && error.name === "AbortError") return;
    const code = error instanceof OcelliError ? error.code : "";
    if (code === "device-lost" || code === "worker") {
      void this.#pipe?.dispose();
      this.#pipe = null;
      this.#lost(error);
      return;
    }
    this.#trouble("That did not work", error instanceof Error ? error.message : String(error));
  }

  #figures(result: Generation): void {
    byId("figures").hidden = false;
    if (result.device !== this.#device) {
      this.#device = result.device;
      const where = result.device === "wasm" ? "WebAssembly on the processor, because the GPU was lost" : "WebGPU";
      byId("device").textContent = `${this.#pipe?.model}: ${where}.`;
    }
    byId("figure-ttft").textContent = milliseconds(result.ttft_ms);
    byId("figure-encode").textContent = milliseconds(result.encode_ms);
    byId("figure-speed").textContent = `${result.tokens_per_s.toFixed(result.tokens_per_s < 10 ? 1 : 0)} tokens/s`;
    void this.#showMemory();
  }

  async #showMemory(): Promise<void> {
    const memory = await this.#pipe?.memory().catch(() => null);
    if (!memory) return;
    const { weight_bytes, wasm_bytes } = memory;
    // On the processor the weights are part of the engine's own memory.
    const bytes = this.#device === "webgpu" ? weight_bytes + (wasm_bytes ?? 0) : Math.max(weight_bytes, wasm_bytes ?? 0);
    byId("figure-memory").textContent = megabytes(bytes);
  }

  #showSource(): void {
    const picture = this.#source?.kind === "picture";
    this.#picture.hidden = !picture;
    this.#video.hidden = picture || this.#source === null;
    byId("empty").hidden = this.#source !== null;
  }

  #closeSource(): void {
    this.#source?.close();
    this.#source = null;
    this.#clearTrouble();
    this.#showSource();
  }

  #pill(text: string | null, live = false): void {
    const pill = byId("pill");
    pill.hidden = text === null;
    pill.textContent = text ?? "";
    pill.classList.toggle("live", live);
  }

  #update(): void {
    const picture = this.#kind() === "picture";
    const running = this.#running !== null;
    this.#start.textContent = picture ? "Ask" : running ? "Ask this" : "Start";
    this.#start.disabled = this.#pipe === null || (picture && (this.#source === null || running));
    const focused = document.activeElement === this.#stop;
    this.#stop.disabled = !running;
    if (focused && !running) this.#start.focus();
    byId("empty").textContent = picture ? "Choose, drop or paste a picture." : this.#kind() === "camera" ? "The camera starts with the button." : "You choose a window when you start.";
  }

  #trouble(title: string, text: string, ...buttons: HTMLButtonElement[]): void {
    const place = byId("trouble");
    place.hidden = false;
    place.replaceChildren(make("p", {}, make("strong", {}, `${title}.`), " ", text), ...buttons);
  }

  #clearTrouble(): void {
    byId("trouble").hidden = true;
  }
}

function limit(): number {
  const input = byId<HTMLInputElement>("limit");
  return Math.min(Math.max(Math.round(input.valueAsNumber) || 48, 1), 512);
}

/** Names of cameras are told once one is allowed. */
async function listCameras(): Promise<void> {
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  byId("camera-row").hidden = cameras.length < 2;
  const select = byId<HTMLSelectElement>("camera");
  const chosen = select.value;
  select.replaceChildren(...cameras.map(({ deviceId, label }, i) => make("option", { value: deviceId }, label || `Camera ${i + 1}`)));
  if (cameras.some(({ deviceId }) => deviceId === chosen)) select.value = chosen;
}
