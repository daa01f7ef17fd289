// The package in a real browser: download, resume, keep, load, ask, stop. `window.ocelli` is the built package.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, beforeEach, test } from "node:test";
import type { Page } from "playwright-core";
import { serve } from "../server.mjs";
import type { AddressInfo } from "node:net";
import { type Browser, launch, needsChromium, newProfile } from "./chromium.js";
import { BUILDS, ENGINE, HAS_RELAXED, MODELS, Site, WEB, cutAfter, fakeOnly } from "./site.js";

declare global {
  interface Window {
    ocelli: typeof import("../src/index.js");
  }
}

const run = { ...needsChromium, timeout: 60_000 };
const steered = { ...fakeOnly, ...run };

let site: Site;
let browser: Browser;
let page: Page;

before(async () => {
  if (run.skip !== undefined) return;
  site = await Site.start();
  browser = await launch();
  page = browser.page;
});

after(async () => {
  await browser?.close();
  await site?.stop();
});

beforeEach(async () => {
  if (run.skip !== undefined) return;
  site.intercept = () => false;
  await open(page);
  site.forget();
});

async function open(page: Page): Promise<void> {
  await page.goto(site.url("blank.html"));
  await page.waitForFunction(() => window.ocelli !== undefined);
}

interface Outcome {
  error: { name: string; code: string | null; message: string } | null;
  events: { status: string; [field: string]: unknown }[];
  text: string;
  device: string;
  bytes: number;
  info: { [field: string]: unknown };
}

/** Loads a model, asks it about a red picture, disposes of it. */
function load(page: Page, model: string, options: { [name: string]: unknown } = {}): Promise<Outcome> {
  return page.evaluate(
    async ([model, options]) => {
      const events: Outcome["events"] = [];
      const out: Outcome = { error: null, events, text: "", device: "", bytes: -1, info: {} };
      try {
        const pipe = await window.ocelli.pipeline("image-text-to-text", model, {
          ...options,
          progress_callback: (event) => events.push(event),
        });
        const canvas = new OffscreenCanvas(64, 48);
        const context = canvas.getContext("2d")!;
        context.fillStyle = "rgb(200 30 30)";
        context.fillRect(0, 0, 64, 48);
        const answer = await pipe(canvas, "What is it?", { max_new_tokens: 12 });
        Object.assign(out, { text: answer.text, device: answer.device, bytes: answer.bytes_downloaded, info: pipe.info });
        await pipe.dispose();
      } catch (error) {
        const { name, message, code } = error as Error & { code?: string };
        out.error = { name, message, code: typeof code === "string" ? code : null };
      }
      return out;
    },
    [model, options] as const,
  );
}

function statuses(outcome: Outcome): string[] {
  return outcome.events.map((event) => event.status).filter((status, i, all) => status !== all[i - 1]);
}

function loaded(outcome: Outcome): Outcome {
  assert.equal(outcome.error, null, JSON.stringify(outcome.error));
  assert.ok(outcome.text.length > 0);
  return outcome;
}

test("downloads with progress, shows a plan first, and answers", run, async () => {
  const total = site.publish("plain-sailing");
  const outcome = loaded(await load(page, "models/plain-sailing"));
  const seen = statuses(outcome);
  assert.deepEqual(seen.slice(0, 4), ["device", "plan", "initiate", "download"]);
  assert.equal(seen.at(-1), "ready");
  const plan = outcome.events.find((event) => event.status === "plan")!["plan"] as { [field: string]: unknown };
  assert.equal(plan["download_bytes"], total);
  assert.equal(plan["stored_bytes"], 0);
  assert.equal(plan["storage"], "opfs");
  assert.equal(plan["licence"], "Apache-2.0 OR MIT");
  assert.equal(plan["fits"], true);
  const last = outcome.events.filter((event) => event.status === "progress_total").at(-1)!;
  assert.deepEqual([last["loaded"], last["total"], last["downloaded"], last["progress"]], [total, total, total, 100]);
  assert.equal(outcome.bytes, total);
  assert.ok(site.requests.every((seen) => seen.range === null), "nothing to resume");
  if (ENGINE === null) {
    assert.match(outcome.text, /^A red picture of 64 by 48 points\./);
    assert.equal(outcome.info["weight_bytes"], total);
  }
});

test("what is kept is not downloaded again, not even after a restart of the browser", run, async (t) => {
  const total = site.publish("kept");
  const profile = newProfile();
  const first = await launch({ profile });
  await open(first.page);
  const before = loaded(await load(first.page, "models/kept"));
  assert.equal(before.bytes, total);
  await first.close();

  site.forget();
  const second = await launch({ profile });
  t.after(async () => {
    await second.close();
    rmSync(profile, { recursive: true, force: true });
  });
  await open(second.page);
  const again = loaded(await load(second.page, "models/kept"));
  assert.equal(again.bytes, 0);
  assert.equal(again.text, before.text);
  assert.deepEqual(again.info, before.info);
  assert.deepEqual(site.requests.filter(({ path }) => path.startsWith("/models/")).map(({ path }) => path), ["/models/kept/manifest.json"]);

  // The server is gone: the copy does, as long as it is whole.
  site.intercept = (request, response) => request.url!.startsWith("/models/") && (response.destroy(), true);
  const alone = loaded(await load(second.page, "models/kept"));
  assert.ok(statuses(alone).includes("warning"));
  assert.equal(alone.text, before.text);
  await second.page.evaluate(async () => {
    const models = await (await navigator.storage.getDirectory()).getDirectoryHandle("ocelli");
    for await (const folder of models.values()) {
      for await (const file of (folder as FileSystemDirectoryHandle).values()) {
        if (file.kind !== "file" || (await (file as FileSystemFileHandle).getFile()).size <= 1_000_000) continue;
        // The Worker that was disposed of may hold its files for a moment longer.
        const remove = (): Promise<boolean> => (folder as FileSystemDirectoryHandle).removeEntry(file.name).then(() => true, () => false);
        while (!(await remove())) await new Promise((wake) => setTimeout(wake, 50));
      }
    }
  });
  assert.equal((await load(second.page, "models/kept")).error?.code, "network");
});

test("goes on where a connection broke", run, async () => {
  const total = site.publish("broken");
  let cuts = 0;
  const path = weightsPath("broken", 1);
  site.intercept = (request, response) => request.url === `/${path}` && cuts++ < 1 && cutAfter(site, path, 400_000, response);
  const outcome = loaded(await load(page, "models/broken"));
  assert.ok(statuses(outcome).includes("retry"));
  const asked = site.requests.filter((seen) => seen.path === `/${path}`);
  assert.equal(asked.length, 2);
  const offset = Number(/^bytes=(\d+)-$/.exec(asked[1]!.range!)![1]);
  assert.ok(offset > 0 && offset <= 400_000, `resumed at ${offset}`);
  assert.equal(outcome.bytes, total);
});

test("a visit that failed is resumed by the next one", run, async () => {
  const total = site.publish("two-visits");
  const path = weightsPath("two-visits", 1);
  site.intercept = (request, response) => request.url === `/${path}` && cutAfter(site, path, 400_000, response);
  const failed = await load(page, "models/two-visits", { retries: 0 });
  assert.equal(failed.error?.code, "network");
  assert.match(failed.error!.message, /go on from where it stopped/);

  await open(page);
  site.intercept = () => false;
  site.forget();
  const outcome = loaded(await load(page, "models/two-visits"));
  const begun = outcome.events.find((event) => event.status === "download")!;
  assert.ok((begun["resumed_from"] as number) > 1_000_000, "the first shard and a part of the second were kept");
  assert.equal(outcome.bytes, total - (outcome.events.find((event) => event.status === "plan")!["plan"] as { stored_bytes: number }).stored_bytes);
  assert.ok(!site.requests.some((seen) => seen.path === `/${weightsPath("two-visits", 0)}`), "the first shard was not asked for");
});

test("starts a file over when the server does not know ranges", run, async () => {
  site.publish("no-ranges", { shard_bytes: 100_000_000 });
  const path = weightsPath("no-ranges");
  let asked = 0;
  site.intercept = (request, response) => {
    if (request.url !== `/${path}`) return false;
    if (asked++ === 0) return cutAfter(site, path, 500_000, response);
    delete request.headers.range;
    return false;
  };
  loaded(await load(page, "models/no-ranges"));
  assert.equal(asked, 2);
});

test("refuses a file with a wrong hash, and takes the right one afterwards", run, async () => {
  site.publish("damaged");
  const path = join(site.folder, weightsPath("damaged", 1));
  const right = readFileSync(path);
  const wrong = Buffer.from(right);
  wrong[1234]! ^= 1;
  writeFileSync(path, wrong);
  const refused = await load(page, "models/damaged");
  assert.equal(refused.error?.code, "hash");
  assert.match(refused.error!.message, /SHA-256/);

  writeFileSync(path, right);
  site.forget();
  loaded(await load(page, "models/damaged"));
  assert.equal(site.sent(`/${weightsPath("damaged", 1)}`), right.length, "the bad piece was deleted and came whole");
  assert.equal(site.sent(`/${weightsPath("damaged", 0)}`), 0, "the good piece before it was kept");
});

test("a changed model is downloaded anew, unchanged files are not", run, async () => {
  site.publish("changing");
  loaded(await load(page, "models/changing"));
  const manifest = join(site.folder, "models/changing/manifest.json");
  const changed = JSON.parse(readFileSync(manifest, "utf8"));
  const small = changed.files.find((file: { name: string }) => file.name === "merges.txt");
  const bytes = Buffer.concat([readFileSync(join(site.folder, "models/changing/merges.txt")), Buffer.from("\n")]);
  writeFileSync(join(site.folder, "models/changing/merges.txt"), bytes);
  const { createHash } = await import("node:crypto");
  Object.assign(small, { bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") });
  writeFileSync(manifest, JSON.stringify(changed));
  assert.equal((await load(page, "models/changing")).bytes, bytes.length);
});

test("two tabs that load one model download it once", run, async () => {
  const total = site.publish("two-tabs");
  site.intercept = async (request) => {
    if (request.url!.startsWith("/models/two-tabs/model")) await new Promise((wake) => setTimeout(wake, 300));
    return false;
  };
  const other = await browser.context.newPage();
  await open(other);
  site.forget();
  const [one, two] = await Promise.all([load(page, "models/two-tabs"), load(other, "models/two-tabs")]);
  loaded(one);
  loaded(two);
  assert.equal(one.bytes + two.bytes, total);
  assert.ok([one, two].some((outcome) => statuses(outcome).includes("waiting")));
  assert.deepEqual(one.info, two.info);
  await other.close();
});

test("an aborted load ends with AbortError and is resumed later", run, async () => {
  const total = site.publish("aborted");
  const slow = weightsPath("aborted", 1);
  site.intercept = (request, response) => {
    if (request.url !== `/${slow}`) return false;
    const body = readFileSync(join(site.folder, slow));
    response.writeHead(200, { "content-length": body.length });
    response.write(body.subarray(0, 100_000)); // The rest never comes.
    return true;
  };
  const name = await page.evaluate(async () => {
    const controller = new AbortController();
    const load = window.ocelli.pipeline("image-text-to-text", "models/aborted", {
      signal: controller.signal,
      progress_callback: (event) => {
        if (event.status === "progress" && event.loaded > 1_000_000) controller.abort();
      },
    });
    setTimeout(() => controller.abort(), 5000);
    return load.then(() => "loaded", (error: Error) => error.name);
  });
  assert.equal(name, "AbortError");
  site.intercept = () => false;
  const outcome = loaded(await load(page, "models/aborted"));
  assert.ok(outcome.bytes < total - 900_000, `${outcome.bytes} of ${total} came again`);
});

test("a declined plan downloads nothing", run, async () => {
  site.publish("declined");
  const code = await page.evaluate(() =>
    window.ocelli
      .pipeline("image-text-to-text", "models/declined", { on_plan: (plan) => (plan.download_bytes ?? 0) < 1000 })
      .then(() => "loaded", (error) => error.code),
  );
  assert.equal(code, "declined");
  assert.deepEqual(site.requests.filter(({ path }) => path.startsWith("/models/")).map(({ path }) => path), ["/models/declined/manifest.json"]);
});

test("too little storage is said: before the download when the browser tells, otherwise when it is full", run, async () => {
  const total = site.publish("too-large");
  const poor = "navigator.storage.estimate = async () => ({ quota: 2_000_000, usage: 500_000 });";
  patchWorker("poor-worker.js", poor);
  const before = await load(page, "models/too-large", { worker_url: "poor-worker.js" });
  assert.equal(before.error?.code, "quota");
  assert.match(before.error!.message, /needs \d+ MB more.* only 1 MB more/);
  assert.equal(site.sent("/models/too-large/model"), 0);

  const full =
    "const { write } = FileSystemSyncAccessHandle.prototype; FileSystemSyncAccessHandle.prototype.write = " +
    "function (bytes, { at }) { if (at > 1_500_000) throw new DOMException('full', 'QuotaExceededError'); return write.call(this, bytes, { at }); };";
  patchWorker("full-worker.js", full);
  const during = await load(page, "models/too-large", { worker_url: "full-worker.js" });
  assert.equal(during.error?.code, "quota");
  assert.match(during.error!.message, /storage for this page is full/);
  const after = loaded(await load(page, "models/too-large"));
  assert.ok(after.bytes < total - 900_000, "what fitted was kept");
});

test("says what is wrong: no model, a missing file, no network, a wrong task", run, async () => {
  const missing = await load(page, "models/nothing-here");
  assert.equal(missing.error?.code, "not-found");
  assert.match(missing.error!.message, /manifest\.json/);

  site.publish("hole");
  site.intercept = (request, response) => request.url!.includes("/hole/model") && (response.writeHead(404).end(), true);
  const hole = await load(page, "models/hole");
  assert.equal(hole.error?.code, "not-found");
  assert.match(hole.error!.message, /404/);

  site.intercept = (request, response) => request.url!.startsWith("/models/") && (response.destroy(), true);
  const unreachable = await load(page, "models/never-seen");
  assert.equal(unreachable.error?.code, "network");

  site.intercept = () => false;
  const wrong = await page.evaluate(() =>
    window.ocelli.pipeline("text-to-speech" as never, "models/hole").catch((error) => [error.code, error.message]),
  );
  assert.deepEqual(wrong[0], "usage");
  assert.match(wrong[1], /image-text-to-text/);

  site.publish("clip-for-text", { kind: "mobileclip" });
  const kind = await load(page, "models/clip-for-text");
  assert.equal(kind.error?.code, "usage");
});

test("a folder without a manifest works, and is kept", run, async () => {
  const total = site.publish("plain-folder", { manifest: false });
  const outcome = loaded(await load(page, "models/plain-folder"));
  assert.equal(outcome.bytes, total);
  assert.equal((await load(page, "models/plain-folder")).bytes, 0);
});

test("a plain folder's file that changed on the server is not mixed with the old one", run, async () => {
  site.publish("plain-changes", { manifest: false });
  const path = weightsPath("plain-changes");
  site.intercept = (request, response) =>
    request.method === "GET" && request.url === `/${path}` && cutAfter(site, path, 500_000, response, "\"an older version\"");
  assert.equal((await load(page, "models/plain-changes", { retries: 0 })).error?.code, "network");
  site.intercept = () => false;
  site.forget();
  loaded(await load(page, "models/plain-changes"));
  const asked = site.requests.filter((seen) => seen.method === "GET" && seen.path === `/${path}`);
  assert.match(asked[0]!.range!, /^bytes=\d+-$/);
  assert.deepEqual(asked.slice(1).map(({ range }) => range), [null], "the old part was thrown away");
});

test("without a private file system the model stays in memory, and the events say so", run, async () => {
  const total = site.publish("memory");
  for (let visit = 0; visit < 2; visit++) {
    const outcome = loaded(await load(page, "models/memory", { storage: "memory" }));
    assert.ok(outcome.events.some((event) => event.status === "warning" && event["code"] === "memory-only"));
    assert.equal(outcome.bytes, total);
  }
});

test("works where files can neither be renamed nor read by two tabs, as in older browsers", run, async () => {
  const total = site.publish("older");
  patchWorker(
    "older.js",
    "delete FileSystemFileHandle.prototype.move; const { createSyncAccessHandle } = FileSystemFileHandle.prototype;" +
      // One handle a file, however it is asked for; a second one fails as another tab's does.
      "FileSystemFileHandle.prototype.createSyncAccessHandle = function () { return createSyncAccessHandle.call(this); };",
  );
  const older = { worker_url: "older.js" };
  const first = loaded(await load(page, "models/older", older));
  assert.equal(first.bytes, total);
  const text = await page.evaluate(async () => {
    const options = { worker_url: "older.js" };
    const holder = await window.ocelli.pipeline("image-text-to-text", "models/older", options);
    const second = await window.ocelli.pipeline("image-text-to-text", "models/older", options);
    const infos = [holder.info, second.info];
    await holder.dispose();
    await second.dispose();
    return infos.map((info) => JSON.stringify(info));
  });
  assert.equal(text[0], JSON.stringify(first.info));
  assert.equal(text[1], text[0]);
  assert.deepEqual(loaded(await load(page, "models/older")).info, first.info);
});

test("streams pieces; a signal or leaving the loop stops at the next token", run, async () => {
  site.publish("streams", { fake: { ms_per_token: 30 } });
  const seen = await page.evaluate(async () => {
    const pipe = await window.ocelli.pipeline("image-to-text", "models/streams");
    const picture = new ImageData(8, 8);
    const pieces: string[] = [];
    const whole = pipe.stream(picture, undefined, { max_new_tokens: 10 });
    for await (const piece of whole) pieces.push(piece);
    const full = await whole.result;

    const controller = new AbortController();
    const stopped = pipe.stream(picture, "Tell me more.", { signal: controller.signal, max_new_tokens: 1000, ignore_eos: true });
    let heard = "";
    for await (const piece of stopped) {
      heard += piece;
      if (heard.split(" ").length === 3) controller.abort();
    }
    const partial = await stopped.result;

    const left = pipe.stream(picture, "And more?", { max_new_tokens: 1000, ignore_eos: true });
    for await (const _ of left) break;
    const abandoned = await left.result;

    const early = await pipe(picture, "x", { signal: AbortSignal.abort() }).catch((error) => error.name);
    const last = await pipe(picture, "Still there?", { max_new_tokens: 4 });
    await pipe.dispose();
    const gone = await pipe(picture).catch((error) => error.code);
    return { pieces: pieces.join(""), full, heard, partial, abandoned, early, last: last.text, gone };
  });
  assert.equal(seen.pieces, seen.full.text);
  assert.ok(seen.full.ttft_ms > 0 && seen.full.tokens_per_s > 0 && seen.full.encode_ms >= 0 && seen.full.prefill_ms >= 0);
  assert.equal(seen.full.bytes_sent, 0);
  assert.equal(seen.partial.finish_reason, "cancelled");
  assert.equal(seen.partial.text, seen.heard);
  // The engine may say many more while the word to stop is on its way from a busy page.
  assert.ok(seen.partial.token_ids.length < (ENGINE === null ? 10 : 200), `${seen.partial.token_ids.length} tokens`);
  assert.equal(seen.abandoned.finish_reason, "cancelled");
  assert.equal(seen.early, "AbortError");
  assert.ok(seen.last.length > 0);
  assert.equal(seen.gone, "disposed");
});

test("takes every kind of picture, and the same pixels give the same answer", run, async () => {
  site.publish("pictures");
  const answers = await page.evaluate(async () => {
    const pipe = await window.ocelli.pipeline("image-text-to-text", "models/pictures");
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [64, 48];
    const context = canvas.getContext("2d")!;
    context.fillStyle = "rgb(30 60 200)";
    context.fillRect(0, 0, 64, 48);
    const blob = await new Promise<Blob>((done) => canvas.toBlob((made) => done(made!)));
    const url = URL.createObjectURL(blob);
    const image = new Image();
    image.src = url;
    const offscreen = new OffscreenCanvas(64, 48);
    offscreen.getContext("2d")!.drawImage(canvas, 0, 0);
    const bitmap = await createImageBitmap(canvas);
    const frame = new VideoFrame(canvas, { timestamp: 0 });
    const inputs = {
      canvas, offscreen, blob, image, bitmap, frame, url,
      address: new URL(url), pixels: context.getImageData(0, 0, 64, 48), copy: bitmap,
    };
    const out: { [kind: string]: string } = {};
    for (const [kind, input] of Object.entries(inputs)) out[kind] = (await pipe(input, "What?", { max_new_tokens: 8 })).text;
    const video = document.createElement("video");
    const stream = canvas.captureStream();
    video.srcObject = stream;
    video.muted = true;
    const playing = video.play();
    context.fillRect(0, 0, 64, 48); // A stream of a canvas has a frame once something is drawn.
    await playing;
    if (video.readyState < 2) await new Promise((done) => video.addEventListener("loadeddata", done, { once: true }));
    out["video"] = (await pipe(video, "What?", { max_new_tokens: 8 })).text;
    const bad = await pipe(new Blob(["no picture"]), "What?").catch((error) => error.code);
    const missing = await pipe("nothing.png", "What?").catch((error) => `${error.code}: ${error.message}`) as string;
    const two = await pipe([canvas, bitmap], "Both?", { max_new_tokens: 8 });
    await pipe.dispose();
    return { out, bad, missing, two: two.usage.image_tokens };
  });
  const texts = new Set(Object.values(answers.out));
  assert.equal(texts.size, 1, JSON.stringify(answers.out));
  if (ENGINE === null) assert.match([...texts][0]!, /^A blue picture of 64 by 48/);
  assert.equal(answers.bad, "image");
  assert.match(answers.missing, /^image: .*nothing\.png.*404/);
  assert.ok(answers.two > 0);
});

test("MobileCLIP: classifies, and embeds pictures and texts", run, async () => {
  site.publish("clip", { kind: "mobileclip" });
  const seen = await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(32, 32);
    const context = canvas.getContext("2d")!;
    context.fillStyle = "rgb(30 160 30)";
    context.fillRect(0, 0, 32, 32);
    const classify = await window.ocelli.pipeline("zero-shot-image-classification", "models/clip");
    const labels = await classify(canvas, ["red", "green", "blue"], { hypothesis_template: ["a {} square", "a photo of {}"] });
    const texts = await classify.embed_texts(["a red square", "a green square"]);
    await classify.dispose();
    const pictures = await window.ocelli.pipeline("image-feature-extraction", "models/clip");
    const embedded = await pictures([canvas, canvas]);
    await pictures.dispose();
    const words = await window.ocelli.pipeline("feature-extraction", "models/clip");
    const one = await words("a red square");
    await words.dispose();
    const length = (row: Float32Array): number => Math.hypot(...row);
    return {
      labels,
      dims: [texts.dims, embedded.dims, one.dims],
      lengths: [...texts.rows, ...embedded.rows, ...one.rows].map(length),
      same: one.rows[0]!.every((value, i) => value === texts.rows[0]![i]),
      flat: embedded.data.length,
    };
  });
  const sum = seen.labels.reduce((total, { score }) => total + score, 0);
  assert.ok(Math.abs(sum - 1) < 1e-6);
  if (ENGINE === null) assert.equal(seen.labels[0]!.label, "green");
  assert.deepEqual(seen.dims.map(([count]) => count), [2, 2, 1]);
  assert.equal(seen.flat, 2 * seen.dims[1]![1]!);
  for (const length of seen.lengths) assert.ok(Math.abs(length - 1) < 1e-3, `length ${length}`);
  assert.ok(seen.same);
});

const ORACLE = process.env["OCELLI_WEB_ORACLE"] ?? null;
const compared = ENGINE === null || ORACLE === null ? { skip: "SKIPPED: it needs OCELLI_WEB_PKG and OCELLI_WEB_ORACLE" } : run;

for (const device of ["wasm", "webgpu"] as const) test(`answers and embeddings equal the command line's: ${device}`, compared, async () => {
  const picture = join(WEB, "../docs/images/drawn-scene.png");
  const native = (...args: string[]): { [field: string]: unknown } => {
    const { stdout, stderr } = spawnSync(ORACLE!, [...args, "--json", "--device", "cpu", "--dtype", "f32"], { encoding: "utf8" });
    assert.notEqual(stdout, "", stderr);
    return JSON.parse(stdout.trim().split("\n").at(-1)!);
  };
  writeFileSync(join(site.folder, "scene.png"), readFileSync(picture));
  site.publish("same");
  site.publish("same-clip", { kind: "mobileclip" });
  const browser = await launch({ webgpu: device === "webgpu" });
  await open(browser.page);
  const questions = ["Describe the image.", "How many objects are there?", "What colour is the diamond?"];
  const seen = await browser.page.evaluate(async ([device, questions]) => {
    const ask = await window.ocelli.pipeline("image-text-to-text", "models/same", { dtype: "f32", device });
    const answers: number[][] = [];
    const devices = [ask.device];
    for (const question of questions) answers.push((await ask("scene.png", question, { max_new_tokens: 24 })).token_ids);
    await ask.dispose();
    const embed = await window.ocelli.pipeline("feature-extraction", "models/same-clip", { dtype: "f32", device });
    devices.push(embed.device);
    const vectors = [...(await embed("a purple diamond")).rows, ...(await embed.embed_images("scene.png")).rows];
    await embed.dispose();
    return { answers, devices, vectors: vectors.map((row) => [...row]) };
  }, [device, questions] as const).finally(() => browser.close());
  assert.deepEqual(seen.devices, [device, device]);
  for (const [i, question] of questions.entries()) {
    const { token_ids } = native("ask", "--model", MODELS.fastvlm, "--max-tokens", "24", picture, question);
    assert.deepEqual(seen.answers[i], token_ids, question);
  }
  const inputs = [["--text", "a purple diamond"], ["--image", picture]];
  for (const [i, input] of inputs.entries()) {
    const { embedding } = native("embed", "--model", MODELS.mobileclip, ...input) as { embedding: number[] };
    const difference = Math.max(...embedding.map((value, k) => Math.abs(value - seen.vectors[i]![k]!)));
    // Sums of f32 in another order, as between the command line's own kernels.
    assert.ok(embedding.length > 0 && difference < 1e-4, `${input}: differs by ${difference}`);
  }
});

test("lists and deletes kept models, but not one that is in use", run, async () => {
  const total = site.publish("listed");
  const seen = await page.evaluate(async () => {
    const { pipeline, listModels, deleteModel } = window.ocelli;
    const pipe = await pipeline("image-text-to-text", "models/listed");
    const find = async () => (await listModels()).find(({ model }) => model === "listed");
    const listed = await find();
    const refused = await deleteModel("models/listed").catch((error) => error.code);
    await pipe.dispose();
    const deleted = await deleteModel(listed!.id);
    return { listed, refused, deleted, gone: (await find()) === undefined, again: await deleteModel("models/listed") };
  });
  assert.equal(seen.listed?.complete, true);
  assert.equal(seen.listed?.total_bytes, total);
  assert.ok(seen.listed!.stored_bytes >= total);
  assert.deepEqual([seen.refused, seen.deleted, seen.gone, seen.again], ["in-use", true, true, false]);
});

test("without an adapter it runs on the processor and says why", run, async () => {
  site.publish("no-adapter");
  const outcome = loaded(await load(page, "models/no-adapter"));
  assert.equal(outcome.device, "wasm");
  const event = outcome.events.find(({ status }) => status === "device")!;
  assert.equal(event["device"], "wasm");
  assert.match(event["reason"] as string, /adapter/);
  const refused = await load(page, "models/no-adapter", { device: "webgpu" });
  assert.equal(refused.error?.code, "device");
});

test("with an adapter it takes WebGPU; one that fails gives way to the processor", run, async (t) => {
  site.publish("gpu");
  const gpu = await launch({ webgpu: true });
  try {
    await open(gpu.page);
    // The adapter of the tests is software: slower than the processor itself, which "auto" therefore takes.
    const software = loaded(await load(gpu.page, "models/gpu"));
    assert.equal(software.device, "wasm");
    assert.match(software.events[0]!["reason"] as string, /software/);

    const forced = await load(gpu.page, "models/gpu", { device: "webgpu" });
    if (/no WebGPU device/.test(forced.error?.message ?? "")) return t.skip("SKIPPED: this build of the engine has no WebGPU");
    assert.equal(loaded(forced).device, "webgpu");
    patchWorker("real-gpu.js", "Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { get: () => false });");
    const real = { worker_url: "real-gpu.js" };
    const outcome = loaded(await load(gpu.page, "models/gpu", real));
    assert.equal(outcome.device, "webgpu");
    assert.match(outcome.info["adapter"] as string, /\S/);
    if (ENGINE !== null) return;
    site.publish("gpu-fails", { fake: { fail_on: "webgpu" } });
    const fallen = loaded(await load(gpu.page, "models/gpu-fails", real));
    assert.equal(fallen.device, "wasm");
    assert.ok(fallen.events.some((event) => event["code"] === "device-fallback"));
    assert.equal((await load(gpu.page, "models/gpu-fails", { device: "webgpu" })).error?.code, "engine");
    site.publish("gpu-lost", { fake: { lose_device_at: 1 } });
    assert.equal((await load(gpu.page, "models/gpu-lost", real)).error?.code, "device-lost");
    site.publish("gpu-gives-way", { fake: { give_way_at: 1 } });
    const gaveWay = loaded(await load(gpu.page, "models/gpu-gives-way", real));
    assert.equal(gaveWay.info["device"], "webgpu");
    assert.equal(gaveWay.device, "wasm", "a result says where it was computed");
  } finally {
    await gpu.close();
  }
});

test("a missing engine and a missing Worker are said, not waited for", steered, async () => {
  site.publish("no-engine");
  const engine = await load(page, "models/no-engine", { engine_url: "nowhere.js" });
  assert.equal(engine.error?.code, "engine");
  assert.match(engine.error!.message, /nowhere\.js/);
  const worker = await load(page, "models/no-engine", { worker_url: "nowhere.js" });
  assert.equal(worker.error?.code, "worker");
});

test("works when the package comes from another origin", run, async () => {
  site.publish("elsewhere");
  const other = await serve(site.folder, { headers: { "access-control-allow-origin": "*" } });
  const address = `http://127.0.0.1:${(other.address() as AddressInfo).port}/ocelli.js`;
  const text = await page.evaluate(async (address) => {
    const { pipeline } = (await import(address)) as typeof window.ocelli;
    const pipe = await pipeline("image-to-text", "models/elsewhere");
    const { text } = await pipe(new ImageData(4, 4));
    await pipe.dispose();
    return text;
  }, address);
  assert.ok(text.length > 0);
  other.closeAllConnections();
  other.close();
});

test("only the build that the browser can run is downloaded, and both say the same", run, async () => {
  site.publish("builds");
  // What a browser without relaxed SIMD would answer about the Worker's small module.
  patchWorker("plain-worker.js", "const { validate } = WebAssembly; WebAssembly.validate = (bytes) => bytes.length > 64 && validate.call(WebAssembly, bytes);");
  const fetched = (): string[] => BUILDS.filter((build) => site.requests.some(({ path }) => path.startsWith(`/${build}/`)));
  const relaxed = loaded(await load(page, "models/builds", { device: "wasm" }));
  assert.deepEqual(fetched(), ["pkg-relaxed"], "this browser has relaxed SIMD");
  site.forget();
  const plain = loaded(await load(page, "models/builds", { device: "wasm", worker_url: "./plain-worker.js" }));
  assert.deepEqual(fetched(), ["pkg"]);
  assert.equal(relaxed.text, plain.text);
  if (ENGINE === null) return;
  assert.deepEqual([relaxed.info["simd"], plain.info["simd"]], [HAS_RELAXED ? "relaxed" : "simd128", "simd128"]);
});

test("the README's example runs as it stands", run, async () => {
  const readme = readFileSync(join(WEB, "README.md"), "utf8");
  const example = /```js\n(import [\s\S]*?)```/.exec(readme)![1]!;
  assert.ok(example.trim().split("\n").length <= 3, "three lines");
  const model = /"(\.\/models\/[^"]+)"/.exec(example)![1]!;
  const picture = /"([^"]+\.(?:jpg|png))"/.exec(example)![1]!;
  site.publish(model.replace("./models/", "").replace(/\/$/, ""));
  writeFileSync(join(site.folder, picture), readFileSync(join(WEB, "../docs/images/drawn-scene.png")));
  const module = example.replace(/from "ocelli"/, "from \"./ocelli.js\"");
  writeFileSync(join(site.folder, "example.html"), `<!doctype html><link rel="icon" href="data:,"><script type="module">${module}</script>`);
  const said = page.waitForEvent("console");
  await page.goto(site.url("example.html"));
  const message = await said;
  assert.equal(message.type(), "log", message.text());
  if (ENGINE === null) assert.match(message.text(), /^A \w+ picture/);
});

/** A Worker that runs a script before ours. */
function patchWorker(name: string, script: string): void {
  writeFileSync(join(site.folder, `before-${name}`), script);
  writeFileSync(join(site.folder, name), `import "./before-${name}"; import "./worker.js";`);
}

/** The path of a model's weights, or of one of their shards. */
function weightsPath(model: string, shard?: number): string {
  const name = `models/${model}/model.safetensors`;
  const path = shard === undefined ? name : `${name}.${String(shard).padStart(3, "0")}`;
  assert.ok(existsSync(join(site.folder, path)), path);
  return path;
}
