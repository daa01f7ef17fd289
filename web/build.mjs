// Builds the package (dist/), the page (build/site/) and, with --tests, the tests (build/tests/).
//
// dist/       ocelli.js, worker.js, *.d.ts, pkg/ (the engine, when it is there): what npm ships
// build/site/ the same scripts with the demo page: a folder for any file server; models go to models/NAME/

import { build } from "esbuild";
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const at = (...path) => join(here, ...path);
const withTests = process.argv.includes("--tests");

/** The engine's folders: crates/ocelli-web compiled for simd128, and again with relaxed SIMD. */
const engines = ["pkg", "pkg-relaxed"].filter((folder) => existsSync(at(folder, "ocelli_web.js")));

const common = {
  bundle: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  minify: true,
  logLevel: "warning",
  define: { RELAXED_BUILD: String(engines.includes("pkg-relaxed")) },
};

/** The page uses the package as everybody does: from its own file. */
const packageBeside = {
  name: "package-beside",
  setup(steps) {
    steps.onResolve({ filter: /^ocelli$/ }, () => ({ path: "./ocelli.js", external: true }));
  },
};

for (const folder of ["dist", "build/site"]) rmSync(at(folder), { recursive: true, force: true });

await build({ ...common, entryPoints: [at("src/index.ts")], outfile: at("dist/ocelli.js") });
await build({ ...common, entryPoints: [at("src/worker/main.ts")], outfile: at("dist/worker.js") });
compile("tsconfig.json");
compile("src/worker/tsconfig.json");
for (const engine of engines) cpSync(at(engine), at("dist", engine), { recursive: true });
if (engines.length === 0) console.log("no pkg/: built without the engine (see docs/browser.md)");

if (existsSync(at("demo/index.html"))) {
  compile("demo/tsconfig.json");
  await build({ ...common, entryPoints: [at("demo/main.ts")], outfile: at("build/site/app.js"), plugins: [packageBeside] });
  for (const file of ["index.html", "style.css", "icon.svg"]) cpSync(at("demo", file), at("build/site", file));
  for (const name of readdirSync(at("dist"))) {
    if (!name.endsWith(".d.ts")) cpSync(at("dist", name), at("build/site", name), { recursive: true });
  }
}

if (withTests) {
  compile("tests/tsconfig.json");
  rmSync(at("build/tests"), { recursive: true, force: true });
  mkdirSync(at("build/tests"), { recursive: true });
  await build({
    ...common,
    minify: false,
    platform: "node",
    packages: "external",
    entryPoints: readdirSync(at("tests")).filter((name) => name.endsWith(".test.ts")).map((name) => at("tests", name)),
    outdir: at("build/tests"),
    outExtension: { ".js": ".mjs" },
    define: { ...common.define, WEB_ROOT: JSON.stringify(here) },
  });
}

function compile(project) {
  const { status } = spawnSync(process.execPath, [at("node_modules/typescript/bin/tsc"), "-p", at(project)], { stdio: "inherit" });
  if (status !== 0) process.exit(1);
}
