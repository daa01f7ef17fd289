// The page's end of the Worker: calls that await their answers, and what happens when the Worker dies.

import { OcelliError, abortError, fromWire } from "./error.js";
import type { FromWorker, Method, Methods, ToWorker } from "./protocol.js";
import type { MemoryPlan, ProgressEvent } from "./types.js";

export interface Listeners {
  event?: (event: ProgressEvent) => void;
  plan?: (plan: MemoryPlan) => boolean | void | Promise<boolean | void>;
  piece?: (text: string) => void;
}

interface Pending extends Listeners {
  resolve(value: never): void;
  reject(error: Error): void;
}

export interface CallOptions extends Listeners {
  transfer?: Transferable[];
  /** Asks the Worker to end the call; what comes of it is up to the call. */
  signal?: AbortSignal | undefined;
}

export class Remote {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  #calls = 0;
  #dead: Error | null = null;

  constructor(worker: Worker) {
    this.#worker = worker;
    worker.addEventListener("message", ({ data }: MessageEvent<FromWorker>) => this.#receive(data));
    worker.addEventListener("messageerror", () => this.#die("a message of the Worker could not be read"));
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      // A Worker that could not be loaded says no more than that.
      this.#die(event.message ? `the Worker failed: ${event.message}` : "the Worker could not be started; is worker.js where the package expects it, and does the page's policy allow it?");
    });
  }

  call<M extends Method>(method: M, params: Methods[M]["params"], options: CallOptions = {}): Promise<Methods[M]["value"]> {
    const { transfer = [], signal, ...listeners } = options;
    if (this.#dead !== null) return Promise.reject(this.#dead);
    if (signal?.aborted) return Promise.reject(abortError());
    const id = ++this.#calls;
    const stop = (): void => this.#send({ type: "cancel", id });
    signal?.addEventListener("abort", stop);
    const answer = new Promise<Methods[M]["value"]>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, ...listeners });
      this.#send({ type: "call", id, method, params } as ToWorker, transfer);
    });
    return answer.finally(() => signal?.removeEventListener("abort", stop));
  }

  /** Ends the Worker at once. Calls in hand fail. */
  end(): void {
    this.#worker.terminate();
    this.#fail(new OcelliError("disposed", "the pipeline was disposed of"));
  }

  #receive(message: FromWorker): void {
    const pending = this.#pending.get(message.id);
    if (pending === undefined) return;
    switch (message.type) {
      case "event":
        return pending.event?.(message.event);
      case "piece":
        return pending.piece?.(message.text);
      case "plan":
        return void this.#answer(message.id, message.plan, pending);
      case "done":
        this.#pending.delete(message.id);
        return pending.resolve(message.value as never);
      case "failed":
        this.#pending.delete(message.id);
        return pending.reject(fromWire(message.error));
    }
  }

  async #answer(id: number, plan: MemoryPlan, pending: Pending): Promise<void> {
    let proceed = false;
    try {
      proceed = (await pending.plan?.(plan)) !== false;
    } catch (error) {
      this.#pending.delete(id);
      pending.reject(error instanceof Error ? error : new Error(String(error)));
    }
    this.#send({ type: "plan-answer", id, proceed });
  }

  #send(message: ToWorker, transfer: Transferable[] = []): void {
    if (this.#dead === null) this.#worker.postMessage(message, transfer);
  }

  #die(message: string): void {
    this.#worker.terminate();
    this.#fail(new OcelliError("worker", message));
  }

  #fail(error: Error): void {
    this.#dead ??= error;
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }
}

/**
 * Starts the module Worker: `override`, or the `worker.js` beside this module. Where that is another origin, or
 * where the Worker shall live under this page's content-security policy, it starts from a Blob that imports the
 * script: a Worker with an address of its own takes its policy from its own response.
 */
export function startWorker(override: URL | null, inheritPolicy: boolean): Worker {
  const url = override ?? new URL("./worker.js", import.meta.url);
  if (url.origin === location.origin && !inheritPolicy) {
    if (override !== null) return new Worker(url, { type: "module" });
    // In this form, in one expression with literal options, bundlers recognise a Worker and take it along.
    return new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  }
  const blob = new Blob([`import ${JSON.stringify(url.href)};`], { type: "text/javascript" });
  const address = URL.createObjectURL(blob);
  const worker = new Worker(address, { type: "module" });
  // The address is needed until the script was fetched, which the first message proves.
  worker.addEventListener("message", () => URL.revokeObjectURL(address), { once: true });
  return worker;
}
