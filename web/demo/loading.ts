// The card of a model: what it will take, how the download goes, what went wrong and what can be done about it.

import { OcelliError, deleteModel, type MemoryPlan, type PipelineOptions, type ProgressEvent } from "ocelli";
import { button, make, megabytes, pairs, say } from "./dom.js";

export interface Loadable<P> {
  name: string;
  url: string;
  device: "webgpu" | "wasm" | "auto";
  load(options: PipelineOptions): Promise<P>;
  ready(pipe: P, device: string): void;
}

export class ModelCard<P> {
  readonly #element: HTMLElement;
  readonly #model: Loadable<P>;
  #device: Loadable<P>["device"];
  #why = "";
  #abort = new AbortController();
  #started = 0;
  /** The elements of the progress, while there is some: replaced texts keep the focus where it is. */
  #bar: { text: HTMLElement; bar: HTMLProgressElement } | null = null;

  constructor(element: HTMLElement, model: Loadable<P>) {
    this.#element = element;
    this.#model = model;
    this.#device = model.device;
  }

  /** Loads. Asks first when something has to be downloaded, unless the visitor said so before. */
  async start(agreed = false): Promise<void> {
    this.#abort = new AbortController();
    this.#started = 0;
    this.#bar = null;
    this.#show("Looking for the model", "", []);
    try {
      const pipe = await this.#model.load({
        device: this.#device,
        signal: this.#abort.signal,
        inherit_csp: true,
        progress_callback: (event) => this.#progress(event),
        on_plan: (plan) => agreed || plan.download_bytes === 0 || this.#ask(plan),
      });
      this.#element.hidden = true;
      say(`${this.#model.name} is ready.`, true);
      this.#model.ready(pipe, this.#why);
    } catch (error) {
      this.failed(error);
    }
  }

  /** Shows what went wrong, with the ways out of it. Also for a model that was ready and is gone. */
  failed(error: unknown): void {
    const code = error instanceof OcelliError ? error.code : (error as Error).name;
    const message = asSentence((error as Error).message);
    const again = (text: string): HTMLButtonElement => button(text, () => void this.start(true), "main");
    this.#bar = null;
    if (code === "AbortError" || code === "declined") {
      this.#show("The download was stopped", "What has arrived is kept.", [again("Go on")]);
    } else if (code === "device-lost") {
      const processor = button("Use the processor", () => this.#restart("wasm"));
      this.#show("The GPU was lost", `${message} Nothing has to be downloaded again.`, [again("Start again"), processor], true);
    } else if (code === "network") {
      this.#show("The download did not finish", message, [again("Go on")], true);
    } else if (code === "hash" || code === "storage" || code === "quota") {
      const remove = button("Delete the kept copy", () => void this.#remove());
      this.#show("The model could not be kept", message, [again("Try again"), remove], true);
    } else {
      const processor = this.#device === "wasm" ? [] : [button("Use the processor", () => this.#restart("wasm"))];
      this.#show("The model could not be loaded", message, [again("Try again"), ...processor], true);
    }
    say(`${this.#model.name}: ${message}`, true);
  }

  #restart(device: Loadable<P>["device"]): void {
    this.#device = device;
    void this.start(true);
  }

  async #remove(): Promise<void> {
    try {
      await deleteModel(this.#model.url);
      await this.start();
    } catch (error) {
      this.failed(error);
    }
  }

  #ask(plan: MemoryPlan): Promise<boolean> {
    return new Promise((resolve) => {
      const left = plan.quota_bytes === null || plan.usage_bytes === null ? null : plan.quota_bytes - plan.usage_bytes;
      const facts: [string, string][] = [
        ["Download", megabytes(plan.download_bytes)],
        ["Already here", megabytes(plan.stored_bytes)],
        ["Weights in memory", megabytes(plan.weights_bytes ?? plan.total_bytes)],
        ["Working memory", megabytes(plan.activations_bytes)],
        ["Storage left for this page", megabytes(left)],
        ["Licence", plan.licence ?? "not told"],
      ];
      const kept = plan.storage === "opfs" ? "It is kept in this browser for the next visit." : "This browser keeps nothing: the next visit downloads it again.";
      const go = button("Download", () => {
        // Whoever downloads that much wants it kept; browsers may still say no.
        void navigator.storage?.persist?.();
        resolve(true);
      }, "main");
      this.#show(`${this.#model.name} is not on this device yet`, kept, [go], !plan.fits, facts);
      this.#abort.signal.addEventListener("abort", () => resolve(false));
    });
  }

  #progress(event: ProgressEvent): void {
    switch (event.status) {
      case "device":
        this.#why = event.reason;
        break;
      case "waiting":
        this.#show("Waiting", event.message, [this.#stopButton()]);
        break;
      case "progress_total": {
        this.#started ||= performance.now();
        const seconds = (performance.now() - this.#started) / 1000;
        const rate = seconds > 1 ? `, ${megabytes(event.downloaded / seconds)} a second` : "";
        this.#advance("Downloading", `${megabytes(event.loaded)} of ${megabytes(event.total)}${rate}`, event.loaded, event.total);
        break;
      }
      case "retry":
        this.#advance("Downloading", `The connection broke (${event.message}); going on.`, null, null);
        break;
      case "loading":
        this.#advance("Preparing", event.stage, event.done, event.total);
        break;
      case "warning":
        say(event.message, true);
        if (event.code === "device-fallback") this.#why = event.message.replace(/\.$/, "");
        break;
      default:
    }
  }

  #advance(title: string, text: string, done: number | null, total: number | null): void {
    const heading = `${title}: ${this.#model.name}`;
    if (this.#bar === null || this.#element.querySelector("h2")!.textContent !== heading) {
      const bar = make("progress", { max: 1, ariaLabel: heading });
      const label = make("p", { className: "quiet" });
      this.#element.replaceChildren(make("h2", {}, heading), bar, label, ...(title === "Downloading" ? [this.#actions([this.#stopButton()])] : []));
      this.#bar = { text: label, bar };
    }
    this.#bar.text.textContent = text;
    if (done !== null && total !== null && total > 0) this.#bar.bar.value = done / total;
  }

  #stopButton(): HTMLButtonElement {
    return button("Stop", () => this.#abort.abort());
  }

  #actions(buttons: HTMLButtonElement[]): HTMLElement {
    return make("div", { className: "actions" }, ...buttons);
  }

  #show(title: string, text: string, buttons: HTMLButtonElement[], alarm = false, facts: [string, string][] = []): void {
    this.#bar = null;
    this.#element.hidden = false;
    this.#element.classList.toggle("failed", alarm);
    this.#element.replaceChildren(
      make("h2", {}, title),
      make("p", {}, text),
      ...(facts.length > 0 ? [make("dl", {}, ...pairs(facts))] : []),
      ...(buttons.length > 0 ? [this.#actions(buttons)] : []),
    );
  }
}


function asSentence(text: string): string {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  // An address keeps its small letter.
  return `${/^https?:/.test(text) ? text : begun}${/[.!?]$/.test(text) ? "" : "."}`;
}
