// The models that the browser keeps, seen from a page: listing and deleting. The Worker writes them (worker/store.ts).

import { OcelliError } from "./error.js";
import { RECORD, ROOT, folderUrl, modelId, onceFree, useLock, type Record } from "./stored.js";
import type { StoredModel } from "./types.js";

/** The models that this browser keeps for this origin, whole or in part. */
export async function listModels(): Promise<StoredModel[]> {
  const root = await rootFolder();
  if (root === null) return [];
  const models: StoredModel[] = [];
  for await (const [id, folder] of root.entries()) {
    if (folder.kind !== "directory") continue;
    models.push(await describe(id, folder as FileSystemDirectoryHandle));
  }
  return models.sort((a, b) => a.url.localeCompare(b.url));
}

/**
 * Deletes a kept model, named by the id of `listModels` or by its folder's address. Answers false when there is
 * none. A model that a tab has loaded stays, with an error of code "in-use".
 */
export async function deleteModel(model: string | URL): Promise<boolean> {
  const root = await rootFolder();
  if (root === null) return false;
  const names = typeof model === "string" ? [model] : [];
  names.push(modelId(folderUrl(model, document.baseURI)));
  for (const id of names) {
    if (!(await has(root, id))) continue;
    await onceFree(() => alone(id, () => root.removeEntry(id, { recursive: true })));
    return true;
  }
  return false;
}

async function alone(id: string, run: () => Promise<void>): Promise<void> {
  await navigator.locks.request(useLock(id), { ifAvailable: true }, async (lock) => {
    if (lock === null) throw new OcelliError("in-use", "the model is loaded in this or another tab; close it there first");
    await run();
  });
}

async function rootFolder(): Promise<FileSystemDirectoryHandle | null> {
  try {
    return await (await navigator.storage.getDirectory()).getDirectoryHandle(ROOT);
  } catch {
    return null;
  }
}

async function has(root: FileSystemDirectoryHandle, id: string): Promise<boolean> {
  try {
    await root.getDirectoryHandle(id);
    return true;
  } catch {
    return false;
  }
}

async function describe(id: string, folder: FileSystemDirectoryHandle): Promise<StoredModel> {
  let stored = 0;
  let record: Record | null = null;
  for await (const [name, entry] of folder.entries()) {
    if (entry.kind !== "file") continue;
    const file = await (entry as FileSystemFileHandle).getFile();
    stored += file.size;
    if (name === RECORD) record = await file.text().then(JSON.parse).catch(() => null);
  }
  const sizes = record?.files.map((file) => file.bytes) ?? [null];
  return {
    id,
    url: record?.url ?? "",
    model: record?.model ?? id,
    licence: record?.licence ?? null,
    stored_bytes: stored,
    total_bytes: sizes.reduce<number | null>((sum, bytes) => (sum === null || bytes === null ? null : sum + bytes), 0),
    complete: record?.complete ?? false,
  };
}
