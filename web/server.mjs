// A static file server for development and tests, and a model of what a host must do: right MIME types, range
// requests, entity tags. `node server.mjs [FOLDER] [--port N] [--isolate]`; it listens on 127.0.0.1 only.

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { basename, extname, join, normalize, resolve, sep } from "node:path";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".jpg": "image/jpeg",
  ".wasm": "application/wasm",
  ".txt": "text/plain; charset=utf-8",
};

/**
 * Serves `root` and answers the listening server. `options.port` 0 takes a free one; `options.headers` go with every
 * answer; `options.intercept(request, response)` may answer itself by returning true.
 */
export async function serve(root, options = {}) {
  const server = createServer((request, response) => {
    answer(resolve(root), request, response, options).catch((error) => {
      if (!response.headersSent) response.writeHead(500);
      response.end(String(error));
    });
  });
  await new Promise((done) => server.listen(options.port ?? 0, "127.0.0.1", done));
  return server;
}

/** What makes a page cross-origin isolated. */
export const ISOLATION = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
};

async function answer(root, request, response, options) {
  for (const [name, value] of Object.entries(options.headers ?? {})) response.setHeader(name, value);
  if (await options.intercept?.(request, response)) return;
  if (request.method !== "GET" && request.method !== "HEAD") return end(response, 405);
  const path = fileOf(root, request.url);
  const found = path === null ? null : await stat(path).catch(() => null);
  if (found?.isDirectory()) {
    response.setHeader("location", `${new URL(request.url, "http://x").pathname}/`);
    return end(response, 301);
  }
  if (!found?.isFile()) return end(response, 404);
  sendFile(path, found, request, response);
}

/** The file of an address, or null when it would lie outside of the root. */
function fileOf(root, address) {
  let path;
  try {
    path = decodeURIComponent(new URL(address, "http://x").pathname);
  } catch {
    return null;
  }
  if (path.endsWith("/")) path += "index.html";
  const file = normalize(join(root, path));
  return file.startsWith(root + sep) && !file.includes("\0") ? file : null;
}

/** What tells versions of a file apart. */
export function etagOf({ size, mtimeMs }) {
  return `"${size.toString(16)}-${Math.round(mtimeMs).toString(16)}"`;
}

function sendFile(path, found, request, response) {
  const { size } = found;
  const etag = etagOf(found);
  response.setHeader("content-type", TYPES[extname(path)] ?? "application/octet-stream");
  response.setHeader("etag", etag);
  response.setHeader("accept-ranges", "bytes");
  response.setHeader("cache-control", "no-cache");
  if (request.headers["if-none-match"] === etag) return end(response, 304);
  const range = rangeOf(request.headers.range, size);
  if (range === "bad") {
    response.setHeader("content-range", `bytes */${size}`);
    return end(response, 416);
  }
  const { first, last } = range ?? { first: 0, last: size - 1 };
  if (range !== null) response.setHeader("content-range", `bytes ${first}-${last}/${size}`);
  response.setHeader("content-length", last - first + 1);
  response.writeHead(range === null ? 200 : 206);
  if (request.method === "HEAD" || size === 0) return response.end();
  createReadStream(path, { start: first, end: last }).on("error", () => response.destroy()).pipe(response);
}

/** One range of bytes; null without one, "bad" when it begins behind the end. */
function rangeOf(header, size) {
  const found = /^bytes=(\d+)-(\d*)$/.exec(header ?? "");
  if (found === null) return null;
  const first = Number(found[1]);
  const last = Math.min(found[2] === "" ? size - 1 : Number(found[2]), size - 1);
  return first > last ? "bad" : { first, last };
}

function end(response, status) {
  response.writeHead(status, { "content-length": 0 });
  response.end();
}

if (basename(process.argv[1] ?? "") === "server.mjs") {
  const args = process.argv.slice(2);
  const at = args.indexOf("--port");
  const port = at < 0 ? 8080 : Number(args.splice(at, 2)[1]);
  const isolate = args.includes("--isolate");
  const folder = args.find((arg) => !arg.startsWith("--")) ?? ".";
  await serve(folder, { port, headers: isolate ? ISOLATION : {} });
  console.log(`${resolve(folder)} on http://127.0.0.1:${port}/`);
}
