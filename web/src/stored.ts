// How models are named where they are kept: folders, records and locks, the same for Worker and page.

import { sha256Hex } from "./sha256.js";

/** The folder of the origin-private file system that holds one folder a model. */
export const ROOT = "ocelli";
/** The file of a model's folder that says what it is. */
export const RECORD = "model.json";

export interface Record {
  format: 1;
  url: string;
  model: string;
  licence: string | null;
  weights_bytes: number | null;
  activations_bytes: number | null;
  files: { name: string; bytes: number | null; key: string }[];
  complete: boolean;
}

/** The id of the model at a folder's address. */
export function modelId(url: string): string {
  return sha256Hex(url).slice(0, 16);
}

/** A folder's absolute address, which ends in a slash. Relative ones start at `base`. */
export function folderUrl(model: string | URL, base: string): string {
  const url = new URL(model, base);
  url.hash = "";
  url.search = "";
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url.href;
}

/** Held, shared, by everyone who reads the model's files; alone by whoever deletes. */
export function useLock(id: string): string {
  return `ocelli-use-${id}`;
}

/** Held by the one who downloads. */
export function downloadLock(id: string): string {
  return `ocelli-download-${id}`;
}

/** Does what needs a stored file or lock alone. A Worker or page that has just ended may hold it for a moment longer. */
export async function onceFree<T>(run: () => Promise<T>): Promise<T> {
  const TRIES = 20;
  const PAUSE_MS = 100;
  for (let attempt = 1; ; attempt++) {
    try {
      return await run();
    } catch (error) {
      if (attempt === TRIES) throw error;
      await new Promise((wake) => setTimeout(wake, PAUSE_MS));
    }
  }
}
