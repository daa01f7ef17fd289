// Where a model's files are kept: the origin-private file system, or memory where there is none.
//
// One folder a model, `ocelli/<id>`. A file is stored under its key (its SHA-256, or what the server says to tell
// versions apart), so that a new version never overwrites one that another tab reads. While it is incomplete it is
// called `<key>.part`, beside `<key>.part.json` with the offset up to which bytes are known to be on disk.

import { OcelliError, sentence } from "../error.js";
import { RECORD, ROOT, onceFree, type Record } from "../stored.js";

/** A file that is being downloaded. Writes only append. */
export interface Part {
  readonly size: number;
  /** What the server called this version when the first byte came. */
  etag: string | null;
  append(bytes: Uint8Array): void;
  read(at: number, target: Uint8Array): void;
  truncate(size: number): void;
  /** From here on the bytes survive a crash. */
  checkpoint(): Promise<void>;
  /** Ends writing; the part stays for the next time. */
  close(): Promise<void>;
  /** Ends writing; the part becomes the file. */
  finish(): Promise<void>;
}

/** A file that is complete. */
export interface Whole {
  readonly size: number;
  read(at: number, target: Uint8Array): void;
  close(): void;
}

export interface Store {
  readonly kind: "opfs" | "memory";
  /** Size of a complete file, or null. */
  sizeOf(key: string): Promise<number | null>;
  /** Bytes of an incomplete file that the next download need not fetch. */
  partSize(key: string): Promise<number>;
  openPart(key: string): Promise<Part>;
  open(key: string): Promise<Whole>;
  /** Removes everything but these files and their parts. */
  keepOnly(keys: Set<string>): Promise<void>;
  readRecord(): Promise<Record | null>;
  writeRecord(record: Record): Promise<void>;
}

/** The store of a model; in memory when `wish` says so or when the browser has no private file system. */
export async function openStore(id: string, wish: "auto" | "memory"): Promise<{ store: Store; reason: string | null }> {
  if (wish === "memory") return { store: new MemoryStore(), reason: "storage: \"memory\" was asked for" };
  try {
    if (typeof FileSystemSyncAccessHandle === "undefined") throw new Error("there are no sync access handles");
    const root = await navigator.storage.getDirectory();
    const models = await root.getDirectoryHandle(ROOT, { create: true });
    return { store: new OpfsStore(await models.getDirectoryHandle(id, { create: true })), reason: null };
  } catch (error) {
    return { store: new MemoryStore(), reason: `this browser has no private file system here (${sentence(error)})` };
  }
}

class OpfsStore implements Store {
  readonly kind = "opfs";
  readonly #folder: FileSystemDirectoryHandle;

  constructor(folder: FileSystemDirectoryHandle) {
    this.#folder = folder;
  }

  async sizeOf(key: string): Promise<number | null> {
    // While the part is still there, its renaming did not come to an end.
    if ((await this.#file(partName(key))) !== null) return null;
    return (await this.#file(key))?.size ?? null;
  }

  async partSize(key: string): Promise<number> {
    const size = (await this.#file(partName(key)))?.size ?? 0;
    const state = await this.#json<PartState>(stateName(key));
    return Math.min(size, state?.offset ?? 0);
  }

  async openPart(key: string): Promise<Part> {
    const known = await this.partSize(key);
    const etag = (await this.#json<PartState>(stateName(key)))?.etag ?? null;
    const file = await this.#folder.getFileHandle(partName(key), { create: true });
    const access = await exclusively(file);
    access.truncate(known);
    return new OpfsPart(this.#folder, key, file, access, known, etag);
  }

  async open(key: string): Promise<Whole> {
    const file = await this.#folder.getFileHandle(key);
    try {
      // Several tabs may read one file. The mode is newer than the method; browsers without it ignore it.
      const shared = { mode: "read-only" } as unknown as undefined;
      const access = await (file.createSyncAccessHandle as (options?: unknown) => Promise<FileSystemSyncAccessHandle>)
        .call(file, shared);
      return {
        size: access.getSize(),
        read: (at, target) => readFully(access, at, target),
        close: () => access.close(),
      };
    } catch {
      // Another tab has it for itself: read through a snapshot, which needs no lock.
      const blob = await file.getFile();
      return { size: blob.size, read: (at, target) => readBlob(blob, at, target), close: () => undefined };
    }
  }

  async keepOnly(keys: Set<string>): Promise<void> {
    const names: string[] = [];
    for await (const name of this.#folder.keys()) names.push(name);
    for (const name of names) {
      if (name === RECORD || keys.has(name.replace(/\.part(\.json)?$/, ""))) continue;
      await this.#folder.removeEntry(name).catch(() => undefined);
    }
  }

  readRecord(): Promise<Record | null> {
    return this.#json<Record>(RECORD);
  }

  writeRecord(record: Record): Promise<void> {
    return writeJson(this.#folder, RECORD, record);
  }

  async #file(name: string): Promise<File | null> {
    try {
      return await (await this.#folder.getFileHandle(name)).getFile();
    } catch {
      return null;
    }
  }

  async #json<T>(name: string): Promise<T | null> {
    try {
      return JSON.parse((await (await this.#file(name))?.text()) ?? "") as T;
    } catch {
      return null;
    }
  }
}

interface PartState {
  offset: number;
  etag: string | null;
}

class OpfsPart implements Part {
  size: number;
  etag: string | null;
  readonly #folder: FileSystemDirectoryHandle;
  readonly #key: string;
  readonly #file: FileSystemFileHandle;
  readonly #access: FileSystemSyncAccessHandle;

  constructor(
    folder: FileSystemDirectoryHandle,
    key: string,
    file: FileSystemFileHandle,
    access: FileSystemSyncAccessHandle,
    size: number,
    etag: string | null,
  ) {
    this.#folder = folder;
    this.#key = key;
    this.#file = file;
    this.#access = access;
    this.size = size;
    this.etag = etag;
  }

  append(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const written = this.#access.write(bytes.subarray(done), { at: this.size });
      if (written === 0) throw new DOMException("the disk took no more bytes", "QuotaExceededError");
      done += written;
      this.size += written;
    }
  }

  read(at: number, target: Uint8Array): void {
    readFully(this.#access, at, target);
  }

  truncate(size: number): void {
    this.#access.truncate(size);
    this.size = size;
  }

  async checkpoint(): Promise<void> {
    this.#access.flush();
    const state: PartState = { offset: this.size, etag: this.etag };
    await writeJson(this.#folder, stateName(this.#key), state);
  }

  async close(): Promise<void> {
    try {
      await this.checkpoint();
    } finally {
      this.#access.close();
    }
  }

  async finish(): Promise<void> {
    this.#access.flush();
    this.#access.close();
    await rename(this.#folder, this.#file, this.#key);
    await this.#folder.removeEntry(stateName(this.#key)).catch(() => undefined);
  }
}

/** Renames within a folder; where `move` is missing, by copying piece by piece. */
async function rename(folder: FileSystemDirectoryHandle, file: FileSystemFileHandle, name: string): Promise<void> {
  const movable = file as FileSystemFileHandle & { move?: (name: string) => Promise<void> };
  if (movable.move !== undefined) return movable.move(name);
  const from = await file.createSyncAccessHandle();
  const to = await (await folder.getFileHandle(name, { create: true })).createSyncAccessHandle();
  try {
    const piece = new Uint8Array(COPY_BYTES);
    const size = from.getSize();
    for (let at = 0; at < size; at += COPY_BYTES) {
      const part = piece.subarray(0, Math.min(COPY_BYTES, size - at));
      readFully(from, at, part);
      to.write(part, { at });
    }
    to.flush();
  } finally {
    from.close();
    to.close();
  }
  await folder.removeEntry(file.name);
}

const COPY_BYTES = 1 << 20;

/** Opens for writing. */
async function exclusively(file: FileSystemFileHandle): Promise<FileSystemSyncAccessHandle> {
  try {
    return await onceFree(() => file.createSyncAccessHandle());
  } catch (error) {
    throw new OcelliError("storage", `cannot open a stored file for writing: ${sentence(error)}; close other tabs of this page`);
  }
}

async function writeJson(folder: FileSystemDirectoryHandle, name: string, value: unknown): Promise<void> {
  const access = await exclusively(await folder.getFileHandle(name, { create: true }));
  try {
    const bytes = new TextEncoder().encode(JSON.stringify(value));
    access.truncate(0);
    access.write(bytes, { at: 0 });
    access.flush();
  } finally {
    access.close();
  }
}

function readFully(access: FileSystemSyncAccessHandle, at: number, target: Uint8Array): void {
  for (let done = 0; done < target.length; ) {
    const count = access.read(target.subarray(done), { at: at + done });
    if (count === 0) throw new OcelliError("storage", `a stored file ends at ${at + done}; delete the model and load it again`);
    done += count;
  }
}

function readBlob(blob: Blob, at: number, target: Uint8Array): void {
  const bytes = new FileReaderSync().readAsArrayBuffer(blob.slice(at, at + target.length));
  if (bytes.byteLength !== target.length) {
    throw new OcelliError("storage", `a stored file ends at ${at + bytes.byteLength}; delete the model and load it again`);
  }
  target.set(new Uint8Array(bytes));
}

function partName(key: string): string {
  return `${key}.part`;
}

function stateName(key: string): string {
  return `${key}.part.json`;
}

/** Keeps files in blocks, so that a growing file is never copied. */
class MemoryStore implements Store {
  readonly kind = "memory";
  readonly #whole = new Map<string, MemoryFile>();
  readonly #parts = new Map<string, MemoryFile>();
  #record: Record | null = null;

  async sizeOf(key: string): Promise<number | null> {
    return this.#whole.get(key)?.size ?? null;
  }

  async partSize(key: string): Promise<number> {
    return this.#parts.get(key)?.size ?? 0;
  }

  async openPart(key: string): Promise<Part> {
    const file = this.#parts.get(key) ?? new MemoryFile();
    this.#parts.set(key, file);
    const finish = async (): Promise<void> => {
      this.#parts.delete(key);
      this.#whole.set(key, file);
    };
    return Object.assign(file, { finish, checkpoint: async () => undefined, close: async () => undefined });
  }

  async open(key: string): Promise<Whole> {
    const file = this.#whole.get(key);
    if (file === undefined) throw new OcelliError("storage", "a file of the model is not in memory");
    return { size: file.size, read: (at, target) => file.read(at, target), close: () => undefined };
  }

  async keepOnly(): Promise<void> {}

  async readRecord(): Promise<Record | null> {
    return this.#record;
  }

  async writeRecord(record: Record): Promise<void> {
    this.#record = record;
  }
}

class MemoryFile {
  static readonly BLOCK = 1 << 22;
  size = 0;
  etag: string | null = null;
  #blocks: Uint8Array[] = [];

  append(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const at = this.size % MemoryFile.BLOCK;
      if (at === 0) this.#blocks.push(new Uint8Array(MemoryFile.BLOCK));
      const count = Math.min(MemoryFile.BLOCK - at, bytes.length - done);
      this.#blocks.at(-1)!.set(bytes.subarray(done, done + count), at);
      this.size += count;
      done += count;
    }
  }

  read(at: number, target: Uint8Array): void {
    if (at + target.length > this.size) throw new OcelliError("storage", `a file in memory ends at ${this.size}`);
    for (let done = 0; done < target.length; ) {
      const block = Math.floor((at + done) / MemoryFile.BLOCK);
      const from = (at + done) % MemoryFile.BLOCK;
      const count = Math.min(MemoryFile.BLOCK - from, target.length - done);
      target.set(this.#blocks[block]!.subarray(from, from + count), done);
      done += count;
    }
  }

  truncate(size: number): void {
    this.#blocks.length = Math.ceil(size / MemoryFile.BLOCK);
    this.size = size;
  }
}
