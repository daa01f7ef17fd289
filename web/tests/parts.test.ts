// What needs no browser: the hash, the manifest, the server.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { serve } from "../server.mjs";
import { WEB } from "./site.js";
import { parseManifest } from "../src/manifest.js";
import { Sha256, lengthField, sha256Hex } from "../src/sha256.js";
import { folderUrl } from "../src/stored.js";

test("SHA-256 equals node's, however the bytes are cut", () => {
  const bytes = Uint8Array.from({ length: 1000 }, (_, i) => (i * 7919) >> 3);
  for (const length of [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 1000]) {
    const expected = createHash("sha256").update(bytes.subarray(0, length)).digest("hex");
    for (const step of [1, 3, 64, 100, 1000]) {
      const hash = new Sha256();
      for (let at = 0; at < length; at += step) hash.update(bytes.subarray(at, Math.min(at + step, length)));
      assert.equal(hash.hex(), expected, `${length} bytes in steps of ${step}`);
    }
  }
  const hash = new Sha256().update(bytes);
  hash.reset();
  assert.equal(hash.update(new TextEncoder().encode("abc")).hex(), sha256Hex("abc"));
  assert.equal(sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
});

test("SHA-256 counts bits beyond 32 of them", () => {
  for (const bytes of [0, 1, 2 ** 28 - 1, 2 ** 28, 2 ** 29 - 1, 2 ** 29, 2 ** 29 + 1, 2 ** 32 + 5, 2 ** 45 + 3]) {
    const hex = Buffer.from(lengthField(bytes)).toString("hex");
    assert.equal(BigInt(`0x${hex}`), 8n * BigInt(bytes), `${bytes} bytes`);
  }
});

const HASH = "0".repeat(64);
const FILE = { name: "config.json", bytes: 3, sha256: HASH };

test("a manifest is read", () => {
  const shards = [
    { file: "w.000", bytes: 4, sha256: HASH },
    { file: "w.001", bytes: 2, sha256: HASH },
  ];
  const files = [FILE, { name: "w", bytes: 6, sha256: HASH, shards }];
  const read = parseManifest({ format: 1, model: "m", licence: "MIT", files, memory: { weights_bytes: 9 } }, "http://x/m/manifest.json");
  assert.deepEqual(read.files[1]!.pieces.map((piece) => piece.path), ["w.000", "w.001"]);
  assert.equal(read.weights_bytes, 9);
  assert.equal(read.activations_bytes, null);
  assert.equal(parseManifest({ format: 1, files: [FILE] }, "http://x/some%20model/manifest.json").model, "some model");
});

test("a manifest that cannot be trusted is refused with a reason", () => {
  const cases: [unknown, RegExp][] = [
    [null, /not an object/],
    [{ format: 2, files: [FILE] }, /format 2/],
    [{ format: 1, files: [] }, /no files/],
    [{ format: 1, files: [{ ...FILE, name: "../config.json" }] }, /plain name/],
    [{ format: 1, files: [{ ...FILE, name: ".part" }] }, /plain name/],
    [{ format: 1, files: [{ ...FILE, bytes: -1 }] }, /size of config.json/],
    [{ format: 1, files: [{ ...FILE, sha256: "abc" }] }, /SHA-256 of config.json/],
    [{ format: 1, files: [FILE, FILE] }, /twice/],
    [{ format: 1, files: [{ ...FILE, shards: [{ file: "a", bytes: 2, sha256: HASH }] }] }, /2 bytes in the shards/],
    [{ format: 1, files: [{ ...FILE, shards: [{ file: "https://x/a", bytes: 3, sha256: HASH }] }] }, /shard/],
  ];
  for (const [json, reason] of cases) assert.throws(() => parseManifest(json, "http://x/manifest.json"), reason);
});

test("a model's address is a folder", () => {
  assert.equal(folderUrl("models/a", "http://x/page/index.html"), "http://x/page/models/a/");
  assert.equal(folderUrl("https://y/m/?v=1#top", "http://x/"), "https://y/m/");
});

test("the server answers ranges, and nothing outside of its folder", async () => {
  const folder = mkdtempSync(join(tmpdir(), "ocelli-serve-"));
  writeFileSync(join(folder, "a.txt"), "0123456789");
  const server = await serve(folder);
  const at = (path: string, init?: RequestInit): Promise<Response> =>
    fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`, init);
  try {
    assert.equal(await (await at("/a.txt")).text(), "0123456789");
    const part = await at("/a.txt", { headers: { range: "bytes=4-" } });
    assert.deepEqual([part.status, part.headers.get("content-range"), await part.text()], [206, "bytes 4-9/10", "456789"]);
    assert.equal((await at("/a.txt", { headers: { range: "bytes=10-" } })).status, 416);
    assert.equal((await at("/b.txt")).status, 404);
    assert.equal((await at("/%2e%2e/%2e%2e/etc/passwd")).status, 404);
    assert.equal((await at("/%E0%A4%A")).status, 404);
    assert.equal((await at("/a.txt", { method: "POST" })).status, 405);
  } finally {
    server.closeAllConnections();
    server.close();
    rmSync(folder, { recursive: true });
  }
});

test("the shipped types check a caller, with a compiler that looks into them", () => {
  const folder = join(WEB, "build/consumer");
  mkdirSync(folder, { recursive: true });
  const compile = (source: string): string => {
    writeFileSync(join(folder, "caller.ts"), source);
    const options = { target: "ES2022", module: "ESNext", moduleResolution: "Bundler", strict: true, noEmit: true, types: [], skipLibCheck: false, paths: { ocelli: ["../../dist/index.d.ts"] } };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: options, files: ["caller.ts"] }));
    const { stdout } = spawnSync(process.execPath, [join(WEB, "node_modules/typescript/bin/tsc"), "-p", folder], { encoding: "utf8" });
    return stdout;
  };
  const right = `
    import { pipeline, OcelliError, type Generation, type LabelScore } from "ocelli";
    const ask = await pipeline("image-text-to-text", "./m/", { device: "auto", on_plan: (plan) => plan.fits });
    for await (const piece of ask.stream(document.querySelector("video")!, "What?", { max_new_tokens: 8 })) piece.trim();
    const answer: Generation = await ask("a.png");
    const classify = await pipeline("zero-shot-image-classification", new URL("https://x/m/"));
    const scores: LabelScore[] = await classify(new Blob(), ["a"]);
    const first = (await classify.embed_texts("a")).rows[0]!.length + answer.ttft_ms + scores.length;
    if (!(first > 0)) throw new OcelliError("usage", "");
    export {};`;
  assert.equal(compile(right), "");
  const wrong = right.replace("ask.stream", "classify.stream").replace("\"What?\"", "5");
  assert.match(compile(wrong), /caller\.ts.*error/);
});

test("npm packs what is needed, and nothing else", () => {
  const { stdout } = spawnSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { cwd: WEB, encoding: "utf8" });
  const found = JSON.parse(stdout) as unknown;
  const pack = (Array.isArray(found) ? found[0] : Object.values(found as object)[0]) as { files: { path: string }[] };
  const files = pack.files.map(({ path }) => path);
  for (const needed of ["dist/ocelli.js", "dist/worker.js", "dist/index.d.ts", "LICENSE-MIT", "LICENSE-APACHE", "README.md"]) {
    assert.ok(files.includes(needed), needed);
  }
  assert.deepEqual(files.filter((path) => /^(tests|demo|src|build)\//.test(path)), []);
});
