// Runs a WebAssembly program of wasm32-wasip1 with Node: `node tests/wasi.mjs program.wasm arguments…`.
// The program sees no files and no variables but `OCELLI_ISA` and `OCELLI_EVERY_CASE`.
import { readFile } from "node:fs/promises";
import process, { argv, env } from "node:process";
import { setFlagsFromString } from "node:v8";
import { WASI } from "node:wasi";

// Node 20 has relaxed SIMD behind a switch, which later ones do not know and do not need.
if (process.versions.node.startsWith("20.")) setFlagsFromString("--experimental-wasm-relaxed-simd");

// With its short cut from WebAssembly to WASI, Node 20 damages its own memory and crashes when it ends.
setFlagsFromString("--no-turbo-fast-api-calls");

const [program, ...rest] = argv.slice(2);
const seen = ["OCELLI_ISA", "OCELLI_EVERY_CASE"].filter((name) => env[name]);
const wasi = new WASI({
    version: "preview1",
    args: [program, ...rest],
    env: Object.fromEntries(seen.map((name) => [name, env[name]])),
    returnOnExit: true,
});
const module = await WebAssembly.compile(await readFile(program));
// A panic ends as a trap: Node prints it and fails.
process.exitCode = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
