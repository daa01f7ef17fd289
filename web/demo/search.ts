// The Search tab: pictures that the visitor drops in, ranked by how near they are to words or to one of them.

import type { EmbeddingPipeline } from "ocelli";
import { byId, make } from "./dom.js";

interface Photo {
  name: string;
  thumbnail: string;
  vector: Float32Array;
}

const THUMBNAIL_PX = 360;
const TYPING_MS = 250;

export class Search {
  readonly #photos: Photo[] = [];
  readonly #query = byId<HTMLInputElement>("query");
  readonly #lost: (error: unknown) => void;
  #pipe: EmbeddingPipeline | null = null;
  /** Files that wait for the model, or for their turn. */
  #waiting: File[] = [];
  #unreadable = 0;
  #busy = false;
  #like: Photo | null = null;
  #timer = 0;
  /** Only the newest question is shown. */
  #asked = 0;

  constructor(lost: (error: unknown) => void) {
    this.#lost = lost;
    byId("query-form").addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#ask();
    });
    this.#query.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = window.setTimeout(() => void this.#ask(), TYPING_MS);
    });
    byId("add").addEventListener("click", () => byId("files").click());
    byId<HTMLInputElement>("files").addEventListener("change", ({ target }) => {
      this.add([...((target as HTMLInputElement).files ?? [])]);
      (target as HTMLInputElement).value = "";
    });
  }

  ready(pipe: EmbeddingPipeline): void {
    this.#pipe = pipe;
    this.#query.disabled = false;
    byId<HTMLButtonElement>("add").disabled = false;
    void this.#read();
  }

  add(files: File[]): void {
    this.#waiting.push(...files);
    void this.#read();
  }

  async #read(): Promise<void> {
    if (this.#busy || this.#pipe === null) return;
    this.#busy = true;
    for (let file = this.#waiting.shift(); file !== undefined; file = this.#waiting.shift()) {
      try {
        const [vector] = (await this.#pipe.embed_images(file)).rows;
        this.#photos.push({ name: file.name, thumbnail: await thumbnail(file), vector: vector! });
      } catch (error) {
        const code = (error as { code?: string }).code;
        if (code !== "image") {
          this.#waiting = [];
          this.#pipe = null;
          this.#lost(error);
          break;
        }
        this.#unreadable += 1;
      }
      this.#draw(this.#photos.map((photo) => [photo, null]));
    }
    this.#busy = false;
    if (this.#query.value.trim() !== "" || this.#like !== null) await this.#ask(this.#like);
  }

  /** Ranks by the words in the box, or by a picture. */
  async #ask(like: Photo | null = null): Promise<void> {
    const words = this.#query.value.trim();
    const turn = ++this.#asked;
    this.#like = like;
    if (this.#pipe === null) return;
    if (words === "" && like === null) return this.#draw(this.#photos.map((photo) => [photo, null]));
    const vector = like?.vector ?? (await this.#pipe.embed_texts(words)).rows[0]!;
    if (turn !== this.#asked) return;
    const ranked = this.#photos.map((photo): [Photo, number] => [photo, dot(vector, photo.vector)]);
    this.#draw(ranked.sort(([, a], [, b]) => b - a));
  }

  #draw(ranked: [Photo, number | null][]): void {
    byId("search-empty").hidden = this.#photos.length + this.#waiting.length > 0;
    byId("found").replaceChildren(...ranked.map(([photo, score]) => this.#tile(photo, score)));
    const count = this.#photos.length;
    const parts = [`${count} ${count === 1 ? "picture" : "pictures"}`];
    if (this.#waiting.length > 0) parts.push(`${this.#waiting.length} waiting`);
    if (this.#unreadable > 0) parts.push(`${this.#unreadable} could not be read`);
    if (this.#like !== null) parts.push(`nearest to ${this.#like.name} first`);
    byId("search-status").textContent = parts.join(", ");
  }

  #tile(photo: Photo, score: number | null): HTMLElement {
    const picture = make("img", { src: photo.thumbnail, alt: "" });
    const line = make("span", {}, make("b", {}, photo.name), ...(score === null ? [] : [make("i", {}, score.toFixed(2))]));
    const tile = make("button", { type: "button", className: "tile", title: "Find pictures like this one" }, picture, line);
    tile.addEventListener("click", () => {
      this.#query.value = "";
      void this.#ask(photo);
    });
    return make("li", {}, tile);
  }
}

async function thumbnail(file: Blob): Promise<string> {
  const bitmap = await createImageBitmap(file, { resizeWidth: THUMBNAIL_PX, resizeQuality: "medium" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d")!.drawImage(bitmap, 0, 0);
  bitmap.close();
  return URL.createObjectURL(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 }));
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}
