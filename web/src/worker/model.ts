// From a folder's address to files that the engine can read: describe, plan, download what is missing, open.

import type { ModelFiles } from "../engine.js";
import { OcelliError, abortError, isAbort } from "../error.js";
import type { ModelFile } from "../manifest.js";
import { sha256Hex } from "../sha256.js";
import { downloadLock, modelId, useLock, type Record } from "../stored.js";
import type { DeviceName, MemoryPlan, ProgressEvent } from "../types.js";
import { download } from "./download.js";
import { Unreachable, describeFolder } from "./folder.js";
import { openStore, type Store, type Whole } from "./store.js";

export interface Request {
  url: string;
  device: DeviceName;
  storage: "auto" | "memory";
  retries: number;
  signal: AbortSignal;
  report(event: ProgressEvent): void;
  /** Shows the plan; false declines. */
  approve(plan: MemoryPlan): Promise<boolean>;
}

/** A model's files, open for reading until `close`. */
export interface OpenModel {
  model: string;
  files: ModelFiles;
  bytes_downloaded: number;
  close(): void;
}

/** A file of the model with the name it is stored under. */
interface Wanted extends ModelFile {
  key: string;
}

interface Contents {
  record: Record;
  files: Wanted[];
}

const EVENT_EVERY_MS = 100;

export async function openModel(request: Request): Promise<OpenModel> {
  const id = modelId(request.url);
  const { store, reason } = await openStore(id, request.storage);
  if (reason !== null) {
    const message = `The model is kept in memory only, and the next visit downloads it again: ${reason}.`;
    request.report({ status: "warning", code: "memory-only", message });
  }
  const contents = await describe(request, store);
  const release = store.kind === "opfs" ? await use(id, store, contents) : () => undefined;
  try {
    const bytes_downloaded = await fetchMissing(id, store, contents, request);
    const { files, close } = await openAll(store, contents);
    return {
      model: contents.record.model,
      files,
      bytes_downloaded,
      close: () => {
        close();
        release();
      },
    };
  } catch (error) {
    release();
    throw error;
  }
}

/** What the server offers, or, when it cannot be reached, what is kept. */
async function describe(request: Request, store: Store): Promise<Contents> {
  try {
    const found = await describeFolder(request.url, request.signal);
    const files = found.files.map((file) => ({
      ...file,
      key: sha256Hex(file.sha256 ?? `${file.name} ${file.bytes} ${found.etags.get(file.name)}`).slice(0, 32),
    }));
    return {
      files,
      record: {
        format: 1,
        url: request.url,
        model: found.model,
        licence: found.licence,
        weights_bytes: found.weights_bytes,
        activations_bytes: found.activations_bytes,
        files: files.map(({ name, bytes, key }) => ({ name, bytes, key })),
        complete: false,
      },
    };
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error;
    const kept = await wholeCopy(store);
    if (kept === null) {
      const why = navigator.onLine ? "the server cannot be reached" : "this device is offline";
      throw new OcelliError("network", `${request.url}: ${why} (${error.message}), and no whole copy of the model is kept here`);
    }
    const message = "The server cannot be reached; the copy kept by this browser is used.";
    request.report({ status: "warning", code: "offline", message });
    return kept;
  }
}

/** The model as it was completed once, if every file is still there. */
async function wholeCopy(store: Store): Promise<Contents | null> {
  const record = await store.readRecord();
  if (record === null || !record.complete) return null;
  const files = record.files.map((file) => ({ ...file, sha256: null, pieces: [] }));
  for (const file of files) if (!(await isWhole(store, file))) return null;
  return { record, files };
}

/** Takes the model into use: nobody deletes its files until the returned function is called. */
async function use(id: string, store: Store, contents: Contents): Promise<() => void> {
  const keys = new Set(contents.files.map((file) => file.key));
  // Old versions are swept away when no tab reads them.
  await navigator.locks.request(useLock(id), { ifAvailable: true }, async (lock) => {
    if (lock !== null) await store.keepOnly(keys);
  });
  return hold(useLock(id), "shared");
}

/** Takes a lock; the returned function gives it back. */
function hold(name: string, mode: LockMode, signal?: AbortSignal): Promise<() => void> {
  return new Promise((taken, failed) => {
    const options: LockOptions = signal === undefined ? { mode } : { mode, signal };
    navigator.locks
      .request(name, options, () => new Promise<void>((release) => taken(release)))
      .catch(failed);
  });
}

/** Downloads what is not there; answers how many bytes came over the network. */
async function fetchMissing(id: string, store: Store, contents: Contents, request: Request): Promise<number> {
  let plan = await makePlan(store, contents, request);
  request.report({ status: "plan", plan });
  if (!(await request.approve(plan))) throw new OcelliError("declined", "the download was declined");
  if (plan.download_bytes === 0) {
    reportStored(contents, request);
    await markComplete(store, contents);
    return 0;
  }
  const release = store.kind === "opfs" ? await lockDownload(id, request) : () => undefined;
  try {
    // Another tab may have finished while this one waited.
    plan = await makePlan(store, contents, request);
    if (!plan.fits) throw quota(plan);
    await store.writeRecord(contents.record);
    const received = await fetchFiles(store, contents, plan, request);
    await markComplete(store, contents);
    return received;
  } finally {
    release();
  }
}

async function lockDownload(id: string, request: Request): Promise<() => void> {
  const soon = new AbortController();
  const timer = setTimeout(() => soon.abort(), EVENT_EVERY_MS);
  try {
    return await hold(downloadLock(id), "exclusive", AbortSignal.any([soon.signal, request.signal]));
  } catch (error) {
    if (request.signal.aborted || !isAbort(error)) throw error;
  } finally {
    clearTimeout(timer);
  }
  request.report({ status: "waiting", message: "Another tab is downloading this model; this one waits for it." });
  return hold(downloadLock(id), "exclusive", request.signal);
}

async function markComplete(store: Store, contents: Contents): Promise<void> {
  const before = await store.readRecord();
  if (before?.complete === true && JSON.stringify(before.files) === JSON.stringify(contents.record.files)) return;
  await store.writeRecord({ ...contents.record, complete: true });
}

async function makePlan(store: Store, contents: Contents, request: Request): Promise<MemoryPlan> {
  const files: MemoryPlan["files"] = [];
  let download: number | null = 0;
  for (const file of contents.files) {
    const whole = await isWhole(store, file);
    const stored = whole ? ((await store.sizeOf(file.key)) ?? 0) : await store.partSize(file.key);
    files.push({ name: file.name, bytes: file.bytes, stored_bytes: stored });
    if (whole) continue;
    download = download === null || file.bytes === null ? null : download + Math.max(file.bytes - stored, 0);
    // A part that is long enough is still to be verified, so it is not nothing.
    if (download === 0) download = 1;
  }
  const estimate = store.kind === "opfs" ? await navigator.storage.estimate().catch(() => null) : null;
  const quota_bytes = estimate?.quota ?? null;
  const usage_bytes = estimate?.usage ?? null;
  return {
    model: contents.record.model,
    url: request.url,
    licence: contents.record.licence,
    device: request.device,
    storage: store.kind,
    files,
    total_bytes: files.reduce<number | null>((sum, { bytes }) => (sum === null || bytes === null ? null : sum + bytes), 0),
    stored_bytes: files.reduce((sum, file) => sum + file.stored_bytes, 0),
    download_bytes: download,
    weights_bytes: contents.record.weights_bytes,
    activations_bytes: contents.record.activations_bytes,
    quota_bytes,
    usage_bytes,
    fits: quota_bytes === null || usage_bytes === null || (download ?? 0) <= quota_bytes - usage_bytes,
  };
}

async function isWhole(store: Store, file: Wanted): Promise<boolean> {
  const size = await store.sizeOf(file.key);
  return size !== null && (file.bytes === null || size === file.bytes);
}

function quota(plan: MemoryPlan): OcelliError {
  const megabytes = (bytes: number | null): string => `${Math.ceil((bytes ?? 0) / 1e6)} MB`;
  const free = Math.max((plan.quota_bytes ?? 0) - (plan.usage_bytes ?? 0), 0);
  return new OcelliError(
    "quota",
    `${plan.model} needs ${megabytes(plan.download_bytes)} more, but the browser grants this page only ` +
      `${Math.floor(free / 1e6)} MB more. Free disk space, or delete kept models (listModels, deleteModel), then load again.`,
  );
}

function reportStored(contents: Contents, request: Request): void {
  const name = contents.record.model;
  for (const { name: file } of contents.files) {
    request.report({ status: "initiate", name, file });
    request.report({ status: "done", name, file, stored: true });
  }
}

async function fetchFiles(store: Store, contents: Contents, plan: MemoryPlan, request: Request): Promise<number> {
  const name = contents.record.model;
  const progress = new Progress(plan, name, request);
  for (const file of contents.files) {
    if (request.signal.aborted) throw abortError();
    request.report({ status: "initiate", name, file: file.name });
    const stored = await isWhole(store, file);
    if (!stored) await fetchFile(store, file, progress, request);
    request.report({ status: "done", name, file: file.name, stored });
  }
  progress.end();
  return progress.received;
}

async function fetchFile(store: Store, file: Wanted, progress: Progress, request: Request): Promise<void> {
  const part = await store.openPart(file.key);
  const name = progress.name;
  try {
    await download(file, part, {
      base: request.url,
      retries: request.retries,
      signal: request.signal,
      onStart: (resumed_from) => {
        request.report({ status: "download", name, file: file.name, resumed_from });
        progress.set(file.name, resumed_from, 0, file.bytes);
      },
      onBytes: (loaded, received, total) => progress.set(file.name, loaded, received, total),
      onRetry: (attempt, message) => request.report({ status: "retry", name, file: file.name, attempt, message }),
    });
  } catch (error) {
    progress.stop();
    await part.close().catch(() => undefined); // What went wrong first is what matters.
    throw error;
  }
  progress.finish(file.name, part.size);
  await part.finish();
}

/** Turns bytes into events, not more than some a second. */
class Progress {
  received = 0;
  readonly name: string;
  readonly #loaded = new Map<string, number>();
  readonly #total: number | null;
  readonly #report: (event: ProgressEvent) => void;
  #last = 0;
  /** The newest state of a file that was not reported yet. */
  #due: (() => void) | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(plan: MemoryPlan, name: string, request: Request) {
    this.name = name;
    this.#total = plan.total_bytes;
    this.#report = request.report;
    for (const file of plan.files) this.#loaded.set(file.name, file.stored_bytes);
  }

  set(file: string, loaded: number, received: number, total: number | null): void {
    this.received += received;
    this.#loaded.set(file, loaded);
    const wasDue = this.#due !== null;
    this.#due = () => this.#file(file, loaded, total);
    if (!wasDue) this.#timer = setTimeout(() => this.#flush(), Math.max(0, this.#last + EVENT_EVERY_MS - performance.now()));
  }

  finish(file: string, bytes: number): void {
    this.stop();
    this.#loaded.set(file, bytes);
    this.#file(file, bytes, bytes);
  }

  end(): void {
    this.stop();
    this.#all();
  }

  /** Reports nothing more of what is due. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#due = null;
  }

  #flush(): void {
    this.#last = performance.now();
    this.#due?.();
    this.#due = null;
    this.#all();
  }

  #file(file: string, loaded: number, total: number | null): void {
    this.#report({ status: "progress", name: this.name, file, loaded, total, progress: percent(loaded, total) });
  }

  #all(): void {
    let loaded = 0;
    for (const bytes of this.#loaded.values()) loaded += bytes;
    const total = this.#total;
    const progress = percent(loaded, total);
    this.#report({ status: "progress_total", loaded, total, progress, downloaded: this.received });
  }
}

function percent(loaded: number, total: number | null): number | null {
  return total === null || total === 0 ? null : (100 * loaded) / total;
}

async function openAll(store: Store, contents: Contents): Promise<{ files: ModelFiles; close: () => void }> {
  const open = new Map<string, Whole>();
  const close = (): void => open.forEach((file) => file.close());
  try {
    const keys = new Map<string, Whole>();
    for (const { name, key } of contents.files) {
      const whole = keys.get(key) ?? (await store.open(key));
      keys.set(key, whole);
      open.set(name, whole);
    }
  } catch (error) {
    close();
    throw error;
  }
  const named = (name: string): Whole => {
    const file = open.get(name);
    if (file === undefined) throw new OcelliError("not-found", `the model has no file ${name}`);
    return file;
  };
  return {
    close,
    files: {
      names: () => [...open.keys()],
      size: (name) => named(name).size,
      read: (name, offset, target) => named(name).read(offset, target),
    },
  };
}
