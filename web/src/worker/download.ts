// One file from the server into the store: piece by piece, resumed where it stopped, hashed while it streams.

import type { ModelFile, Piece } from "../manifest.js";
import { OcelliError, abortError, isAbort, sentence } from "../error.js";
import { Sha256 } from "../sha256.js";
import type { Part } from "./store.js";

export interface Transfer {
  /** Absolute address of the model folder. */
  base: string;
  retries: number;
  signal: AbortSignal;
  /** `loaded` bytes of the file are here; `received` more came over the network. */
  onBytes(loaded: number, received: number, total: number | null): void;
  onStart(resumedFrom: number): void;
  onRetry(attempt: number, message: string): void;
}

const STALL_MS = 30_000;
const FIRST_PAUSE_MS = 500;
const CHECKPOINT_BYTES = 8 << 20;
const REHASH_BYTES = 1 << 20;

/**
 * Fetches what `part` lacks of `file`. When it returns, all bytes are there and every hash was right.
 * A wrong piece is removed before the error is thrown, so that the next attempt fetches it again.
 */
export async function download(file: ModelFile, part: Part, transfer: Transfer): Promise<void> {
  transfer.onStart(part.size);
  let start = 0;
  for (const piece of file.pieces) {
    if (part.size > start || (piece.bytes ?? 1) > 0) await fetchPiece(piece, start, part, transfer, file.bytes);
    start = piece.bytes === null ? part.size : start + piece.bytes;
  }
}

async function fetchPiece(
  piece: Piece,
  start: number,
  part: Part,
  transfer: Transfer,
  fileBytes: number | null,
): Promise<void> {
  // Bytes of an earlier visit are only trusted once: when they turn out wrong, the piece is fetched whole.
  let old = part.size > start;
  if (piece.bytes !== null && part.size - start > piece.bytes) {
    // The part goes on behind this piece, which was verified before the next one was begun.
    return;
  }
  for (;;) {
    const hash = new Sha256();
    rehash(part, start, hash);
    await fillPiece(piece, start, part, hash, transfer, fileBytes);
    const found = hash.hex();
    if (piece.sha256 === null || piece.sha256 === found) return;
    part.truncate(start);
    await part.checkpoint();
    if (old) {
      old = false;
      continue;
    }
    throw new OcelliError(
      "hash",
      `${piece.path} is not what the manifest says: its SHA-256 is ${found}, expected ${piece.sha256}. ` +
        "The piece was deleted. Load again; if this stays, the files on the server are damaged or from different versions.",
    );
  }
}

/** Streams the rest of a piece, over as many connections as it takes. */
async function fillPiece(
  piece: Piece,
  start: number,
  part: Part,
  hash: Sha256,
  transfer: Transfer,
  fileBytes: number | null,
): Promise<void> {
  let failures = 0;
  while (piece.bytes === null || part.size - start < piece.bytes) {
    const before = part.size;
    try {
      const whole = await stream(piece, start, part, hash, transfer, fileBytes);
      if (piece.bytes === null || whole) return;
      throw new Broken("the connection ended early");
    } catch (error) {
      if (transfer.signal.aborted) throw abortError();
      if (!(error instanceof Broken)) throw storageError(error);
      failures = part.size > before ? 0 : failures + 1;
      if (failures > transfer.retries || (failures === 0 && transfer.retries === 0)) throw gaveUp(piece, error);
      transfer.onRetry(Math.max(failures, 1), error.message);
      await pause(FIRST_PAUSE_MS * 2 ** Math.max(failures - 1, 0), transfer.signal);
    }
  }
}

/** A failure that another attempt may mend. */
class Broken extends Error {}

/** One connection. Answers whether the piece is whole. */
async function stream(
  piece: Piece,
  start: number,
  part: Part,
  hash: Sha256,
  transfer: Transfer,
  fileBytes: number | null,
): Promise<boolean> {
  const stall = new AbortController();
  const signal = AbortSignal.any([transfer.signal, stall.signal]);
  let timer = setTimeout(() => stall.abort(), STALL_MS);
  try {
    const response = await request(piece, start, part, hash, transfer, signal);
    const length = contentLength(response);
    const end = piece.bytes ?? (length === null ? null : part.size - start + length);
    const total = fileBytes ?? (end === null ? null : start + end);
    const reader = response.body!.getReader();
    let unsaved = 0;
    for (;;) {
      const { done, value } = await reader.read().catch(broken);
      if (done) return end === null || part.size - start === end;
      clearTimeout(timer);
      timer = setTimeout(() => stall.abort(), STALL_MS);
      if (piece.bytes !== null && part.size - start + value.length > piece.bytes) {
        await reader.cancel();
        throw tooLong(piece, part, start);
      }
      part.append(value);
      hash.update(value);
      transfer.onBytes(part.size, value.length, total);
      unsaved += value.length;
      if (unsaved >= CHECKPOINT_BYTES) {
        unsaved = 0;
        await part.checkpoint();
      }
    }
  } catch (error) {
    if (stall.signal.aborted && !transfer.signal.aborted) throw new Broken(`no byte came for ${STALL_MS / 1000} s`);
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** Asks for what is missing. Starts the piece over when the server does not continue where it stopped. */
async function request(
  piece: Piece,
  start: number,
  part: Part,
  hash: Sha256,
  transfer: Transfer,
  signal: AbortSignal,
): Promise<Response> {
  const url = new URL(piece.path, transfer.base).href;
  for (;;) {
    const have = part.size - start;
    const headers: HeadersInit = have > 0 ? { Range: `bytes=${have}-` } : {};
    // Not the HTTP cache: it would keep a second copy of each file.
    const response = await fetch(url, { headers, signal, cache: "no-store" }).catch(broken);
    const fits = response.status === 200 ? have === 0 : response.status === 206 && continues(response, have, part.etag);
    if (fits) {
      part.etag = response.headers.get("etag");
      return response;
    }
    if (have > 0 && (response.status === 200 || response.status === 206 || response.status === 416)) {
      part.truncate(start);
      hash.reset();
      transfer.onBytes(part.size, 0, null);
      if (response.status === 200) {
        part.etag = response.headers.get("etag");
        return response;
      }
      await response.body?.cancel();
      continue;
    }
    await response.body?.cancel();
    throw refusal(url, response);
  }
}

/** Whether a partial answer begins at `have` and is of the version that was begun. */
function continues(response: Response, have: number, etag: string | null): boolean {
  const range = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "");
  const now = response.headers.get("etag");
  return (range === null || Number(range[1]) === have) && (etag === null || now === null || etag === now);
}

export function refusal(url: string, response: Response): Error {
  const { status } = response;
  if (status === 404 || status === 410) return new OcelliError("not-found", `${url}: the server has no such file (${status})`);
  if (status === 401 || status === 403) {
    return new OcelliError("not-found", `${url}: the server does not give this file to us (${status})`);
  }
  return new Broken(`${url}: the server answered ${status}`);
}

export function gaveUp(what: { path: string }, error: Error): OcelliError {
  const hint = navigator.onLine
    ? "Load again to go on from where it stopped."
    : "This device is offline; load again when it is back, and it goes on from where it stopped.";
  return new OcelliError("network", `downloading ${what.path} failed: ${error.message}. ${hint}`, { cause: error });
}

function rehash(part: Part, start: number, hash: Sha256): void {
  const buffer = new Uint8Array(Math.min(REHASH_BYTES, part.size - start));
  for (let at = start; at < part.size; at += REHASH_BYTES) {
    const bytes = buffer.subarray(0, Math.min(REHASH_BYTES, part.size - at));
    part.read(at, bytes);
    hash.update(bytes);
  }
}

/** Bytes of the body, when the header counts the same bytes as we read. */
function contentLength(response: Response): number | null {
  const length = response.headers.get("content-length");
  return length === null || response.headers.has("content-encoding") ? null : Number(length);
}

function tooLong(piece: Piece, part: Part, start: number): OcelliError {
  part.truncate(start);
  return new OcelliError(
    "hash",
    `${piece.path} is longer than the ${piece.bytes} bytes of the manifest. The piece was deleted. ` +
      "Load again; if this stays, the files on the server are from different versions.",
  );
}

function broken(error: unknown): never {
  if (isAbort(error)) throw error;
  throw new Broken(sentence(error));
}

function storageError(error: unknown): unknown {
  if (error instanceof DOMException && error.name === "QuotaExceededError") {
    return new OcelliError(
      "quota",
      "the browser's storage for this page is full. Free disk space or delete kept models, then load again: " +
        "it goes on from where it stopped.",
    );
  }
  return error;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((wake, fail) => {
    const timer = setTimeout(wake, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      fail(abortError());
    }, { once: true });
  });
}
