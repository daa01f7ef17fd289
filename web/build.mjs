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
  minifySyntax: true, // Drops the branch of a build that is not there.
  logLevel: "warning",
  // The tests' site has both builds, whether or not they are here.
  define: { RELAXED_BUILD: String(withTests || engines.includes("pkg-relaxed")) },
};

/** The page uses the package as everybody does: from its own file. */
const packageBeside = {
  name: "package-beside",
  setup(steps) {
    steps.onResolve({ filter: /^ocelli$/ }, () => ({ path: "./ocelli.js", external: true }));
  },
};

for (const folder of ["dist", "build/site"]) rmSync(at(folder), { recursive: true, force: true });

// Not minified: bundlers do that, and need the comments beside `import()`.
await buildPackage("dist", {});
compile("tsconfig.json");
compile("src/worker/tsconfig.json");
for (const engine of engines) cpSync(at(engine), at("dist", engine), { recursive: true });
if (engines.length === 0) console.log("no pkg/: built without the engine (see docs/browser.md)");

if (existsSync(at("demo/index.html"))) {
  compile("demo/tsconfig.json");
  await buildPackage("build/site", { minify: true });
  const page = { entryPoints: [at("demo/main.ts")], outfile: at("build/site/app.js"), plugins: [packageBeside] };
  await build({ ...common, ...page, minify: true });
  for (const file of ["index.html", "style.css", "icon.svg"]) cpSync(at("demo", file), at("build/site", file));
  for (const engine of engines) cpSync(at(engine), at("build/site", engine), { recursive: true });
}

if (withTests) {
  compile("tests/tsconfig.json");
  rmSync(at("build/tests"), { recursive: true, force: true });
  mkdirSync(at("build/tests"), { recursive: true });
  await build({
    ...common,
    platform: "node",
    packages: "external",
    entryPoints: readdirSync(at("tests")).filter((name) => name.endsWith(".test.ts")).map((name) => at("tests", name)),
    outdir: at("build/tests"),
    outExtension: { ".js": ".mjs" },
    define: { ...common.define, WEB_ROOT: JSON.stringify(here) },
  });
}

async function buildPackage(folder, options) {
  await build({ ...common, ...options, entryPoints: [at("src/index.ts")], outfile: at(folder, "ocelli.js") });
  await build({ ...common, ...options, entryPoints: [at("src/worker/main.ts")], outfile: at(folder, "worker.js") });
}

function compile(project) {
  const { status } = spawnSync(process.execPath, [at("node_modules/typescript/bin/tsc"), "-p", at(project)], { stdio: "inherit" });
  if (status !== 0) process.exit(1);
}
