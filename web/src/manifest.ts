// `manifest.json` of a model folder: which files there are, how large, with which SHA-256, in which pieces.
// The schema is described in docs/browser.md. A manifest comes from a server, so nothing in it is trusted: names
// are plain file names, sizes whole numbers, and pieces add up.

import { OcelliError } from "./error.js";

export interface Piece {
  /** Relative to the model folder. */
  path: string;
  /** null when only the server knows. */
  bytes: number | null;
  sha256: string | null;
}

export interface ModelFile {
  name: string;
  bytes: number | null;
  sha256: string | null;
  /** One after another they are the file. */
  pieces: Piece[];
}

/** A model folder's contents, from its manifest or from looking. */
export interface Description {
  model: string;
  licence: string | null;
  files: ModelFile[];
  weights_bytes: number | null;
  activations_bytes: number | null;
}

export const MANIFEST = "manifest.json";
const FORMAT = 1;

export function parseManifest(json: unknown, url: string): Description {
  const wrong = (what: string): OcelliError => new OcelliError("manifest", `${url}: ${what}`);
  if (!isRecord(json)) throw wrong("is not an object");
  if (json["format"] !== FORMAT) {
    throw wrong(`has format ${String(json["format"])}; this version of ocelli reads format ${FORMAT}`);
  }
  const files = json["files"];
  if (!Array.isArray(files) || files.length === 0) throw wrong("lists no files");
  const parsed = files.map((file) => parseFile(file, wrong));
  const names = new Set(parsed.map((file) => file.name));
  if (names.size !== parsed.length) throw wrong("names a file twice");
  const memory = isRecord(json["memory"]) ? json["memory"] : {};
  return {
    model: typeof json["model"] === "string" ? json["model"] : folderName(url),
    licence: typeof json["licence"] === "string" ? json["licence"] : null,
    files: parsed,
    weights_bytes: size(memory["weights_bytes"]),
    activations_bytes: size(memory["activations_bytes"]),
  };
}

function parseFile(file: unknown, wrong: (what: string) => OcelliError): ModelFile {
  if (!isRecord(file) || !isFileName(file["name"])) throw wrong("has a file without a plain name");
  const name = file["name"];
  const bytes = size(file["bytes"]);
  if (bytes === null) throw wrong(`tells no size of ${name}`);
  const sha256 = file["sha256"];
  if (!isSha256(sha256)) throw wrong(`tells no SHA-256 of ${name}`);
  const shards = file["shards"];
  if (shards === undefined || shards === null) {
    return { name, bytes, sha256, pieces: [{ path: name, bytes, sha256 }] };
  }
  if (!Array.isArray(shards) || shards.length === 0) throw wrong(`has no list of shards for ${name}`);
  const pieces = shards.map((shard): Piece => {
    const length = isRecord(shard) ? size(shard["bytes"]) : null;
    if (!isRecord(shard) || !isFileName(shard["file"]) || length === null || !isSha256(shard["sha256"])) {
      throw wrong(`has a shard of ${name} without file, bytes or sha256`);
    }
    return { path: shard["file"], bytes: length, sha256: shard["sha256"] };
  });
  const sum = pieces.reduce((total, piece) => total + (piece.bytes ?? 0), 0);
  if (sum !== bytes) throw wrong(`has ${sum} bytes in the shards of ${name}, which has ${bytes}`);
  return { name, bytes, sha256, pieces };
}

/** The last part of a folder's address. */
export function folderName(url: string): string {
  const parts = new URL(url).pathname.split("/").filter((part) => part !== "" && part !== MANIFEST);
  return decodeURIComponent(parts.at(-1) ?? url);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isFileName(value: unknown): value is string {
  return typeof value === "string" && /^[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,254}$/.test(value);
}

function isSha256(value: unknown): value is string {
  return typeof value === "string" && /^[0-9a-f]{64}$/.test(value);
}

function size(value: unknown): number | null {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : null;
}
