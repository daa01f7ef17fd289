// Runs cases on the module of ocelli-web: `node engine.mjs PKG CASES.json` writes one line of JSON with the answers.
// The test in engine.rs writes the cases and compares.

import { readFileSync, readdirSync, statSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [pkg, list] = process.argv.slice(2);
const { default: init, Engine, probe } = await import(pathToFileURL(join(pkg, "ocelli_web.js")));
await init({ module_or_path: readFileSync(join(pkg, "ocelli_web_bg.wasm")) });

/** A folder of the disk as the page would give one: ranges of bytes, never a whole file. */
class Folder {
  constructor(dir, without = []) {
    this.dir = dir;
    this.without = without;
    this.longest = 0;
    this.handles = new Map();
  }
  names() {
    return readdirSync(this.dir).filter((name) => !this.without.includes(name));
  }
  size(name) {
    return statSync(join(this.dir, name)).size;
  }
  read(name, offset, target) {
    if (this.broken) throw new Error("the handle is closed");
    if (!this.handles.has(name)) this.handles.set(name, openSync(join(this.dir, name)));
    if (name.endsWith(".safetensors")) this.longest = Math.max(this.longest, target.length);
    const read = readSync(this.handles.get(name), target, 0, target.length, offset);
    if (read !== target.length) throw new Error("the file ends too early");
  }
}

const message = async (call) => {
  try {
    await call();
  } catch (error) {
    return error instanceof Error ? error.message : `no Error: ${error}`;
  }
  return null;
};

const picture = ({ rgba, width, height }) => ({ data: new Uint8Array(readFileSync(rgba)), width, height });

const answers = [];
for (const { dir, options, pictures = [], requests = [], texts = [] } of JSON.parse(readFileSync(list, "utf8"))) {
  const folder = new Folder(dir);
  const progress = [];
  const engine = await Engine.load(folder, JSON.stringify(options), (...step) => progress.push(step));
  const answer = { info: JSON.parse(engine.info()), progress: progress.at(-1), steps: progress.length, longest: folder.longest };
  const images = pictures.map(picture);
  answer.generated = [];
  for (const { request, pictures } of requests) {
    const pieces = [];
    const given = pictures.map((at) => images[at]);
    const json = await engine.generate(given, JSON.stringify(request), (piece) => pieces.push(piece));
    answer.generated.push({ ...JSON.parse(json), pieces });
  }
  if (answer.info.kind === "mobileclip") {
    answer.images = (await engine.embed_images(images)).map((row) => [...row]);
    answer.texts = (await engine.embed_texts(texts)).map((row) => [...row]);
    answer.logit_scale = engine.logit_scale();
    answer.wrong_kind = await message(() => engine.generate([], "{}", () => {}));
  } else {
    answer.wrong_kind = await message(() => engine.logit_scale());
    answer.wrong_json = await message(() => engine.generate([], "{", () => {}));
    answer.wrong_picture = await message(() =>
      engine.generate([{ data: new Uint8Array(7), width: 1, height: 2 }], '{"prompt": "?"}', () => {}));
    const ask = () => engine.generate([], '{"prompt": "?", "max_new_tokens": 3, "ignore_eos": true}', () => {
      throw new Error("the listener broke");
    });
    answer.thrown_inside = await message(ask);
    const before = engine.generate([], '{"prompt": "?", "max_new_tokens": 8, "ignore_eos": true}', () => {});
    // The request is under way once its promise has begun; then a message comes in.
    for (let turn = 0; turn < 10; turn++) await null;
    engine.cancel();
    answer.cancelled = JSON.parse(await before).finish_reason;
  }
  engine.free();

  const again = (folder, options) => message(() => Engine.load(folder, JSON.stringify(options), () => {}));
  answer.webgpu = await again(new Folder(dir), { device: "webgpu" });
  answer.other_device = await again(new Folder(dir), { device: "abacus" });
  answer.no_config = await again(new Folder(dir, ["config.json", "open_clip_config.json"]), options);
  const broken = new Folder(dir);
  broken.broken = true;
  answer.broken = await again(broken, options);
  answers.push(answer);
}
console.log(JSON.stringify({ answers, probe: JSON.parse(await probe()) }));
