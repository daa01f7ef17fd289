// Any picture a page can have, as an ImageBitmap, which can be handed to the Worker without a copy.

import type { ImageInput } from "./api.js";
import { OcelliError, isAbort, sentence } from "./error.js";

/** Larger pictures are made smaller here: 4096 x 4096 pixels are already 64 MiB, far above what models look at. */
const LONGEST_SIDE_PX = 4096;

/** A new bitmap of the picture, upright. The input stays as it was. */
export async function toBitmap(input: ImageInput, signal?: AbortSignal): Promise<ImageBitmap> {
  try {
    return await limit(await decode(input, signal));
  } catch (error) {
    if (error instanceof OcelliError || isAbort(error)) throw error;
    throw new OcelliError("image", `${named(input)} cannot be read as a picture: ${sentence(error)}`, { cause: error });
  }
}

async function decode(input: ImageInput, signal?: AbortSignal): Promise<ImageBitmap> {
  if (typeof input === "string" || input instanceof URL) return decode(await fetchImage(input, signal), signal);
  if (input instanceof HTMLVideoElement && input.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) {
    throw new OcelliError("image", "the video has no frame yet; wait for its loadeddata event");
  }
  if (input instanceof HTMLImageElement) await input.decode();
  // Orientation as the file says, colours as the page shows them, and no multiplication by alpha.
  return createImageBitmap(input, { imageOrientation: "from-image", premultiplyAlpha: "none" });
}

async function fetchImage(url: string | URL, signal?: AbortSignal): Promise<Blob> {
  const address = new URL(url, document.baseURI).href;
  let response: Response;
  try {
    response = await fetch(address, signal === undefined ? {} : { signal });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new OcelliError("image", `${address} could not be fetched: ${sentence(error)}. The page's policy and the other server (CORS) must allow it.`);
  }
  if (!response.ok) throw new OcelliError("image", `${address}: the server answered ${response.status}`);
  return response.blob();
}

async function limit(bitmap: ImageBitmap): Promise<ImageBitmap> {
  const longest = Math.max(bitmap.width, bitmap.height);
  if (longest <= LONGEST_SIDE_PX) return bitmap;
  const factor = LONGEST_SIDE_PX / longest;
  try {
    return await createImageBitmap(bitmap, {
      resizeWidth: Math.max(1, Math.round(bitmap.width * factor)),
      resizeHeight: Math.max(1, Math.round(bitmap.height * factor)),
      resizeQuality: "high",
    });
  } finally {
    bitmap.close();
  }
}

function named(input: ImageInput): string {
  if (typeof input === "string" || input instanceof URL) return String(input);
  if (input instanceof File) return input.name;
  return `this ${input?.constructor?.name ?? typeof input}`;
}
