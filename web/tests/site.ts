// A site as a host would have it: the built page, the engine, and models with manifests; and a server that counts
// what it gives away and can misbehave.

import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { etagOf, serve } from "../server.mjs";

/** The folder `web/`; set by build.mjs. */
declare const WEB_ROOT: string;
export const WEB = WEB_ROOT;

/** The real engine's folder (`pkg/`), or null: then a stand-in answers. */
export const ENGINE = process.env["OCELLI_WEB_PKG"] ?? null;
/** Whether the build with relaxed SIMD lies beside the other one, in `pkg-relaxed/`. */
export const HAS_RELAXED = ENGINE !== null && existsSync(`${ENGINE}-relaxed`);
/** The folders of the engine's builds: for every browser, and for those with relaxed SIMD. */
export const BUILDS = ["pkg", "pkg-relaxed"] as const;
export const fakeOnly: { skip?: string } = ENGINE === null ? {} : { skip: "SKIPPED: it steers the stand-in engine" };

const TINY = join(WEB, "../crates/ocelli-tiny/models");
/** The models that the real engine is tested with. */
export const MODELS = {
  fastvlm: process.env["OCELLI_WEB_MODEL"] ?? join(TINY, "ocelli-tiny"),
  mobileclip: process.env["OCELLI_WEB_CLIP"] ?? join(TINY, "ocelli-tiny-clip"),
};

export interface Fake {
  ms_per_token?: number;
  fail_on?: "webgpu" | "wasm";
  lose_device_at?: number;
  give_way_at?: number;
}

export interface PublishOptions {
  kind?: "fastvlm" | "mobileclip";
  /** Without one, the folder is as Hugging Face lays it out. */
  manifest?: boolean;
  /** How the weights are cut. */
  shard_bytes?: number;
  fake?: Fake;
  licence?: string;
}

export interface Seen {
  method: string;
  path: string;
  range: string | null;
}

type Intercept = (request: IncomingMessage, response: ServerResponse) => boolean | Promise<boolean>;

export class Site {
  readonly folder = mkdtempSync(join(tmpdir(), "ocelli-site-"));
  readonly requests: Seen[] = [];
  /** May answer a request itself, or break the connection. */
  intercept: Intercept = () => false;
  #server: Server | null = null;
  #sent = new Map<string, number>();

  static async start(): Promise<Site> {
    const site = new Site();
    cpSync(join(WEB, "build/site"), site.folder, { recursive: true });
    // Both builds; where there is but one, it stands in for the other.
    for (const build of BUILDS) {
      const place = join(site.folder, build);
      rmSync(place, { recursive: true, force: true });
      mkdirSync(place);
      if (ENGINE === null) cpSync(join(WEB, "tests/fake-engine.js"), join(place, "ocelli_web.js"));
      else cpSync(build === "pkg-relaxed" && HAS_RELAXED ? `${ENGINE}-relaxed` : ENGINE, place, { recursive: true });
    }
    writeFileSync(join(site.folder, "blank.html"), BLANK);
    site.#server = await serve(site.folder, {
      intercept: (request: IncomingMessage, response: ServerResponse) => site.#watch(request, response),
      headers: { "access-control-allow-origin": "*" },
    });
    return site;
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.#server!.address() as AddressInfo).port}`;
  }

  url(path: string): string {
    return `${this.origin}/${path}`;
  }

  /** Puts a model into `models/NAME/`; answers the bytes of its files together. */
  publish(name: string, options: PublishOptions = {}): number {
    const out = join(this.folder, "models", name);
    rmSync(out, { recursive: true, force: true });
    mkdirSync(out, { recursive: true });
    const kind = options.kind ?? "fastvlm";
    const files = ENGINE === null ? fakeFiles(kind, options.fake ?? {}) : folderFiles(MODELS[kind]);
    if (options.manifest === false) {
      for (const [file, bytes] of files) writeFileSync(join(out, file), bytes);
    } else {
      const listed = [...files].map(([file, bytes]) => publishFile(out, file, bytes, options.shard_bytes ?? 1_000_000));
      const weights_bytes = Math.max(...[...files.values()].map((bytes) => bytes.length));
      const manifest = {
        format: 1,
        model: name,
        kind,
        licence: options.licence ?? "Apache-2.0 OR MIT",
        files: listed,
        memory: { weights_bytes, activations_bytes: 8_000_000 },
      };
      writeFileSync(join(out, "manifest.json"), JSON.stringify(manifest, null, 1));
    }
    return [...files.values()].reduce((sum, bytes) => sum + bytes.length, 0);
  }

  /** What the page finds: `models/index.json`. */
  index(models: { folder: string; kind: "fastvlm" | "mobileclip"; name: string }[]): void {
    mkdirSync(join(this.folder, "models"), { recursive: true });
    writeFileSync(join(this.folder, "models/index.json"), JSON.stringify({ format: 1, models }));
  }

  /** Body bytes of answers under a path, over all requests. */
  sent(prefix: string): number {
    let sum = 0;
    for (const [path, bytes] of this.#sent) if (path.startsWith(prefix)) sum += bytes;
    return sum;
  }

  forget(): void {
    this.requests.length = 0;
    this.#sent.clear();
  }

  async stop(): Promise<void> {
    this.#server!.closeAllConnections();
    await new Promise((done) => this.#server!.close(done));
    rmSync(this.folder, { recursive: true, force: true });
  }

  async #watch(request: IncomingMessage, response: ServerResponse): Promise<boolean> {
    const path = new URL(request.url!, this.origin).pathname;
    this.requests.push({ method: request.method!, path, range: request.headers.range ?? null });
    const count = (chunk: unknown): void => {
      if (chunk instanceof Uint8Array) this.#sent.set(path, (this.#sent.get(path) ?? 0) + chunk.length);
    };
    const write = response.write.bind(response) as (...args: unknown[]) => boolean;
    response.write = ((...args: unknown[]) => {
      count(args[0]);
      return write(...args);
    }) as typeof response.write;
    return this.intercept(request, response);
  }
}

/** Sends the beginning of an answer, then breaks the connection. */
export function cutAfter(site: Site, path: string, bytes: number, response: ServerResponse, etag?: string): true {
  const file = join(site.folder, path);
  const body = readFileSync(file);
  response.writeHead(200, { "content-length": body.length, etag: etag ?? etagOf(statSync(file)) });
  response.write(body.subarray(0, bytes), () => setTimeout(() => response.destroy(), 50));
  return true;
}

const BLANK = `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>Test</title>
<script type="module">import * as ocelli from "./ocelli.js"; window.ocelli = ocelli;</script>`;

/** Files for the stand-in: its settings, and three million bytes that look like nothing. */
function fakeFiles(kind: "fastvlm" | "mobileclip", fake: Fake): Map<string, Buffer> {
  const config = kind === "fastvlm" ? "config.json" : "open_clip_config.json";
  const weights = kind === "fastvlm" ? "model.safetensors" : "open_clip_model.safetensors";
  return new Map([
    [config, Buffer.from(JSON.stringify({ fake }))],
    ["vocab.json", Buffer.from("{}")],
    ["merges.txt", Buffer.from("#version: 0.2\n")],
    [weights, noise(3_000_000, kind.length)],
  ]);
}

function noise(bytes: number, seed: number): Buffer {
  const out = Buffer.alloc(bytes);
  let state = seed;
  for (let i = 0; i < bytes; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out[i] = state >>> 24;
  }
  return out;
}

function folderFiles(folder: string): Map<string, Buffer> {
  const names = readdirSync(folder).filter((name) => statSync(join(folder, name)).isFile());
  return new Map(names.map((name) => [name, readFileSync(join(folder, name))]));
}

function publishFile(out: string, name: string, bytes: Buffer, shardBytes: number): object {
  const entry = { name, bytes: bytes.length, sha256: sha256(bytes) };
  if (bytes.length <= shardBytes) {
    writeFileSync(join(out, name), bytes);
    return entry;
  }
  const shards: { file: string; bytes: number; sha256: string }[] = [];
  for (let at = 0; at < bytes.length; at += shardBytes) {
    const file = `${name}.${String(shards.length).padStart(3, "0")}`;
    const piece = bytes.subarray(at, at + shardBytes);
    writeFileSync(join(out, file), piece);
    shards.push({ file, bytes: piece.length, sha256: sha256(piece) });
  }
  return { ...entry, shards };
}

function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}
