// What a model folder on a server holds: by its manifest, or by asking for the files that checkpoints have.

import { OcelliError, isAbort, sentence } from "../error.js";
import { MANIFEST, folderName, parseManifest, type Description, type ModelFile } from "../manifest.js";

const FASTVLM = {
  config: "config.json",
  weights: "model.safetensors",
  // A tokenizer is tokenizer.json, or vocab.json with merges.txt.
  optional: [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "LICENSE",
  ],
};

const MOBILECLIP = {
  config: "open_clip_config.json",
  weights: "open_clip_model.safetensors",
  optional: ["tokenizer.json", "vocab.json", "merges.txt", "LICENSE"],
};

/** The server could not be reached at all; what is kept may still do. */
export class Unreachable extends Error {}

/** A file's description, with what the server calls its version. */
export interface Found extends Description {
  /** By file name; empty with a manifest, whose hashes tell versions apart. */
  etags: Map<string, string | null>;
}

export async function describeFolder(url: string, signal: AbortSignal): Promise<Found> {
  const manifest = await json(new URL(MANIFEST, url), signal);
  if (manifest !== undefined) return { ...parseManifest(manifest, new URL(MANIFEST, url).href), etags: new Map() };
  for (const layout of [FASTVLM, MOBILECLIP]) {
    if ((await json(new URL(layout.config, url), signal)) !== undefined) return plain(url, layout, signal);
  }
  throw new OcelliError(
    "not-found",
    `there is no model at ${url}: it has neither ${MANIFEST} nor ${FASTVLM.config} nor ${MOBILECLIP.config}. ` +
      "A model is the address of a folder, for example ./models/fastvlm-0.5b/.",
  );
}

/** A folder as Hugging Face or open_clip lays it out. */
async function plain(url: string, layout: typeof FASTVLM, signal: AbortSignal): Promise<Found> {
  const index = `${layout.weights}.index.json`;
  const shards = shardNames(await json(new URL(index, url), signal), new URL(index, url).href);
  const required = shards === null ? [layout.config, layout.weights] : [layout.config, index, ...shards];
  const files: ModelFile[] = [];
  const etags = new Map<string, string | null>();
  for (const name of [...required, ...layout.optional]) {
    const head = await ask(new URL(name, url), signal, "HEAD");
    if (!head.ok) {
      if (required.includes(name)) {
        throw new OcelliError("not-found", `${new URL(name, url).href}: the server has no such file (${head.status})`);
      }
      continue;
    }
    // A server that answers every address with its start page has no such file either.
    if (layout.optional.includes(name) && /^text\/html/.test(head.headers.get("content-type") ?? "")) continue;
    const length = head.headers.get("content-length");
    const bytes = length === null || head.headers.has("content-encoding") ? null : Number(length);
    etags.set(name, head.headers.get("etag") ?? head.headers.get("last-modified"));
    files.push({ name, bytes, sha256: null, pieces: [{ path: name, bytes, sha256: null }] });
  }
  return { model: folderName(url), licence: null, files, weights_bytes: null, activations_bytes: null, etags };
}

/** The weight files that an index names, or null without an index. */
function shardNames(index: unknown, url: string): string[] | null {
  if (index === undefined) return null;
  const map = (index as { weight_map?: unknown }).weight_map;
  if (typeof map !== "object" || map === null) throw new OcelliError("manifest", `${url}: has no weight_map`);
  const names = [...new Set(Object.values(map as { [tensor: string]: unknown }))];
  return names.map((name) => {
    if (typeof name === "string" && /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) return name;
    throw new OcelliError("manifest", `${url}: names a file ${JSON.stringify(name)}, which is no plain file name`);
  });
}

/** The JSON at an address; undefined when there is none. */
async function json(url: URL, signal: AbortSignal): Promise<unknown> {
  const response = await ask(url, signal, "GET");
  if (response.status === 404 || response.status === 410 || response.status === 403) return undefined;
  if (!response.ok) throw new OcelliError("network", `${url.href}: the server answered ${response.status}; load again later`);
  const text = await response.text();
  try {
    return JSON.parse(text);
  } catch (error) {
    if (/^text\/html/.test(response.headers.get("content-type") ?? "")) return undefined;
    throw new OcelliError("manifest", `${url.href} is not JSON: ${sentence(error)}`);
  }
}

async function ask(url: URL, signal: AbortSignal, method: "GET" | "HEAD"): Promise<Response> {
  try {
    return await fetch(url, { method, signal, cache: "no-cache" });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Unreachable(sentence(error));
  }
}
