// onnxruntime-web's WebAssembly backend in a Worker, with one thread.

import * as ort from "./onnxruntime-web/ort.wasm.min.mjs";
import { fetched, noise, serve } from "./worker.js";

serve(async ({ folder }) => {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL("./onnxruntime-web/", import.meta.url).href;
  const index = await fetched(`./${folder}/index.json`, "json");
  const model = new Uint8Array(await fetched(`./${folder}/model.onnx`, "arrayBuffer"));
  const rest = index.files.filter((name) => name !== "model.onnx");
  const externalData = await Promise.all(rest.map(async (path) => ({
    path,
    data: new Uint8Array(await fetched(`./${folder}/${path}`, "arrayBuffer")),
  })));
  const session = await ort.InferenceSession.create(model, {
    executionProviders: ["wasm"],
    graphOptimizationLevel: "all",
    externalData,
    extra: { session: { set_denormal_as_zero: "1" } },
  });
  return { info: { version: ort.env.versions.web }, works: worksOf(session, index) };
});

function worksOf(session, index) {
  const pixels = (side) => {
    const { data } = noise(side, 1);
    const values = Float32Array.from({ length: 3 * side * side }, (_, i) => {
      const [channel, pixel] = [Math.floor(i / (side * side)), i % (side * side)];
      return data[4 * pixel + channel] / 255;
    });
    return new ort.Tensor("float32", values, [1, 3, side, side]);
  };
  return {
    image: ({ side }) => {
      const given = { pixels: pixels(side) };
      return async () => ({ embedding: [...(await session.run(given)).embedding.data] });
    },
    encode: ({ side }) => {
      const given = { pixels: pixels(side) };
      return async () => void (await session.run(given)) ?? {};
    },
    decode: async ({ steps }) => {
      const decoder = new Decoder(session, index);
      const first = await decoder.step(index.ids, decoder.empty());
      return async () => {
        let { token, cache } = first;
        const tokens = [token];
        const from = performance.now();
        for (let i = 0; i < steps; i++) {
          ({ token, cache } = await decoder.step([token], cache));
          tokens.push(token);
        }
        return { ms: (performance.now() - from) / steps, context: index.ids.length, tokens };
      };
    },
  };
}

/** A language model whose cache goes out and in with each step, as transformers.js does it. */
class Decoder {
  constructor(session, index) {
    Object.assign(this, { session, index });
  }
  empty() {
    const { layers, kv_heads, head_size } = this.index;
    const parts = Array.from({ length: 2 * layers }, (_, i) => `${Math.floor(i / 2)}.${i % 2 === 0 ? "key" : "value"}`);
    const nothing = () => new ort.Tensor("float32", new Float32Array(0), [1, kv_heads, 0, head_size]);
    return { length: 0, parts: new Map(parts.map((part) => [part, nothing()])) };
  }
  async step(ids, { length, parts }) {
    const total = length + ids.length;
    const given = {
      ids: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
      last_position: new ort.Tensor("int32", Int32Array.of(total - 1), [1]),
      total: new ort.Tensor("int32", Int32Array.of(total), []),
    };
    for (const [part, tensor] of parts) given[`past.${part}`] = tensor;
    const out = await this.session.run(given);
    const cache = { length: total, parts: new Map([...parts.keys()].map((part) => [part, out[`present.${part}`]])) };
    return { token: largest(out.logits.data), cache };
  }
}

function largest(values) {
  let at = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[at]) at = i;
  return at;
}
