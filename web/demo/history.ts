// The answers of this tab, newest first, to look through and to take along.

import type { Generation } from "ocelli";
import { byId, make, milliseconds, save } from "./dom.js";

export interface Entry {
  at: string;
  source: string;
  question: string;
  answer: string;
  finish_reason: Generation["finish_reason"];
  ttft_ms: number;
  tokens_per_s: number;
  device: string;
  /** How often the same answer came in a row. */
  times: number;
}

const MOST = 100;

export class History {
  readonly #entries: Entry[] = [];

  constructor() {
    byId("save-json").addEventListener("click", () => save("ocelli-history.json", "application/json", JSON.stringify(this.#entries, null, 2)));
    byId("save-text").addEventListener("click", () => save("ocelli-history.txt", "text/plain", this.#entries.map(asText).join("\n")));
    byId("clear").addEventListener("click", () => {
      this.#entries.length = 0;
      this.#draw();
    });
  }

  add(source: string, question: string, result: Generation): void {
    const { text, finish_reason, ttft_ms, tokens_per_s, device } = result;
    const newest = this.#entries[0];
    if (newest !== undefined && newest.answer === text && newest.question === question && newest.source === source) {
      Object.assign(newest, { at: now(), ttft_ms, tokens_per_s, times: newest.times + 1 });
    } else {
      this.#entries.unshift({ at: now(), source, question, answer: text, finish_reason, ttft_ms, tokens_per_s, device, times: 1 });
      this.#entries.length = Math.min(this.#entries.length, MOST);
    }
    this.#draw();
  }

  #draw(): void {
    const empty = this.#entries.length === 0;
    for (const id of ["save-json", "save-text", "clear"]) byId<HTMLButtonElement>(id).disabled = empty;
    byId("history-empty").hidden = !empty;
    byId("history").replaceChildren(...this.#entries.map(asItem));
  }
}

function now(): string {
  return new Date().toISOString();
}

function asItem(entry: Entry): HTMLElement {
  const time = new Date(entry.at).toLocaleTimeString();
  const often = entry.times > 1 ? ` · ${entry.times} times` : "";
  const stopped = entry.finish_reason === "cancelled" ? " · stopped" : "";
  const about = `${time} · ${entry.source} · ${milliseconds(entry.ttft_ms)}${often}${stopped}`;
  return make("li", {}, make("p", {}, entry.answer || "(no answer)"), make("p", { className: "quiet" }, about));
}

function asText(entry: Entry): string {
  return `${entry.at} [${entry.source}] ${entry.question}\n${entry.answer}\n`;
}
