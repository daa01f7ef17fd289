// Ocelli's module in a Worker, as the page's own Worker runs it.

import { fetched, noise, serve } from "./worker.js";

serve(async ({ build, folder, files, dtype }) => {
  const { default: start, Engine } = await import(`./${build}/ocelli_web.js`);
  const { memory } = await start({ module_or_path: new URL(`./${build}/ocelli_web_bg.wasm`, import.meta.url) });
  const model = new Files(folder, files);
  await model.fetch();
  const engine = await Engine.load(model, JSON.stringify({ device: "wasm", dtype }), () => {});
  const info = { ...JSON.parse(engine.info()), memory_bytes: memory.buffer.byteLength };
  return { info, works: worksOf(engine) };
});

function worksOf(engine) {
  let pictures = 0;
  const generate = async (images, request) => {
    const asked = { temperature: 0, ignore_eos: true, ...request };
    return JSON.parse(await engine.generate(images, JSON.stringify(asked), () => {}));
  };
  return {
    // Both ends of an embedding: pixels in, a vector of length 1 out.
    image: ({ side }) => async () => {
      const [embedding] = await engine.embed_images([noise(side, 1)]);
      return { embedding: [...embedding] };
    },
    // Another picture each time, so that nothing kept from the last one helps.
    encode: ({ side }) => async () => {
      const request = { prompt: "a", max_new_tokens: 1, resolution: side };
      const { timings } = await generate([noise(side, ++pictures)], request);
      return { ms: timings.encode_ms };
    },
    // The prompt is kept from run to run, so only tokens are computed.
    decode: ({ question, steps }) => async () => {
      const { timings, usage, token_ids } = await generate([], { prompt: question, max_new_tokens: steps + 1 });
      return { ms: timings.decode_ms_per_token, context: usage.prompt_tokens, tokens: token_ids };
    },
  };
}

/** A model's files in memory, some of them in pieces. Rows of the embedding are read while the model runs. */
class Files {
  constructor(folder, files) {
    this.folder = folder;
    this.files = files;
    this.pieces = new Map();
  }
  async fetch() {
    for (const { name, pieces } of this.files) {
      const read = pieces.map((piece) => fetched(`./${this.folder}/${piece}`, "arrayBuffer"));
      this.pieces.set(name, (await Promise.all(read)).map((bytes) => new Uint8Array(bytes)));
    }
  }
  names() {
    return this.files.map(({ name }) => name);
  }
  size(name) {
    return this.pieces.get(name).reduce((sum, piece) => sum + piece.length, 0);
  }
  read(name, offset, target) {
    let done = 0;
    for (const piece of this.pieces.get(name)) {
      if (offset < piece.length && done < target.length) {
        const part = piece.subarray(offset, offset + target.length - done);
        target.set(part, done);
        done += part.length;
        offset += part.length;
      }
      offset -= piece.length;
    }
    if (done < target.length) throw new Error(`${name} ends too early`);
  }
}
