// `pipeline(task, model, options)`: starts a Worker, loads the model there, and answers a function to call.

import type {
  ClassificationPipeline,
  ClassifyOptions,
  EmbeddingPipeline,
  ImageFeaturePipeline,
  ImageInput,
  ImageTextPipeline,
  PipelineOptions,
  TextFeaturePipeline,
  TextStream,
} from "./api.js";
import { OcelliError } from "./error.js";
import { toBitmap } from "./image.js";
import type { Answer, Embedded, Loaded, LoadParams } from "./protocol.js";
import { Remote, startWorker } from "./remote.js";
import { textStream } from "./stream.js";
import { folderUrl } from "./stored.js";
import type { DeviceName, Embeddings, GenerateOptions, Generation, LabelScore, Message, Provenance, Task } from "./types.js";

const CAPTION_PROMPT = "Describe the image.";
const LABEL_TEMPLATE = "a photo of a {}.";
const RETRIES = 4;

const KINDS: { [task in Task]: Loaded["info"]["kind"] } = {
  "image-text-to-text": "fastvlm",
  "image-to-text": "fastvlm",
  "zero-shot-image-classification": "mobileclip",
  "image-feature-extraction": "mobileclip",
  "feature-extraction": "mobileclip",
};

interface Pipelines {
  "image-text-to-text": ImageTextPipeline;
  "image-to-text": ImageTextPipeline;
  "zero-shot-image-classification": ClassificationPipeline;
  "image-feature-extraction": ImageFeaturePipeline;
  "feature-extraction": TextFeaturePipeline;
}

/**
 * Loads the model in the folder at `model` (an address, relative to the page) and answers the task's pipeline.
 *
 * Fails with an `OcelliError`, whose `code` tells what to do, or an AbortError when `signal` ended it.
 */
export async function pipeline<T extends Task>(
  task: T,
  model: string | URL,
  options: PipelineOptions = {},
): Promise<Pipelines[T]> {
  if (!(task in KINDS)) {
    throw new OcelliError("usage", `there is no task "${task}"; there are ${Object.keys(KINDS).join(", ")}`);
  }
  const worker = options.worker_url === undefined ? null : new URL(options.worker_url, document.baseURI);
  const remote = new Remote(startWorker(worker, options.inherit_csp ?? false));
  try {
    const loaded = await remote.call("load", loadParams(task, model, options), {
      signal: options.signal,
      ...(options.progress_callback && { event: options.progress_callback }),
      ...(options.on_plan && { plan: options.on_plan }),
    });
    if (loaded.info.kind !== KINDS[task]) {
      throw new OcelliError("usage", `${loaded.model} is a ${loaded.info.kind} model; "${task}" needs a ${KINDS[task]} one`);
    }
    return assemble(task, new Model(task, remote, loaded)) as Pipelines[T];
  } catch (error) {
    remote.end();
    throw error;
  }
}

function loadParams(task: Task, model: string | URL, options: PipelineOptions): LoadParams {
  const engine = options.engine_url;
  return {
    task,
    url: folderUrl(model, document.baseURI),
    device: options.device ?? "auto",
    dtype: options.dtype ?? null,
    storage: options.storage ?? "auto",
    retries: options.retries ?? RETRIES,
    engine_url: engine === undefined ? null : new URL(engine, document.baseURI).href,
  };
}

function assemble(task: Task, model: Model): unknown {
  switch (task) {
    case "image-text-to-text":
    case "image-to-text": {
      const { stream, ask } = model;
      return model.callable(ask, { stream });
    }
    case "zero-shot-image-classification":
      return model.callable(model.classify, model.embedders());
    case "image-feature-extraction":
      return model.callable(model.embedImages, model.embedders());
    case "feature-extraction":
      return model.callable(model.embedTexts, model.embedders());
  }
}

/** A loaded model. Its methods are arrows, because they are handed out on their own. */
class Model {
  readonly #task: Task;
  readonly #remote: Remote;
  readonly #loaded: Loaded;
  /** Embeddings of labels by template and label: the text tower runs once for each. */
  readonly #labels = new Map<string, Float32Array>();

  constructor(task: Task, remote: Remote, loaded: Loaded) {
    this.#task = task;
    this.#remote = remote;
    this.#loaded = loaded;
  }

  callable<F extends (...args: never[]) => unknown, M extends object>(run: F, methods: M): F & M {
    const { model, info, bytes_downloaded } = this.#loaded;
    const call = ((...args: never[]) => run(...args)) as F;
    return Object.assign(call, methods, {
      task: this.#task,
      model,
      info,
      device: info.device,
      bytes_downloaded,
      memory: () => this.#remote.call("memory", null),
      dispose: async () => this.#remote.end(),
    });
  }

  embedders(): Pick<EmbeddingPipeline, "embed_images" | "embed_texts"> {
    return { embed_images: this.embedImages, embed_texts: this.embedTexts };
  }

  ask = (images: ImageInput | ImageInput[], prompt?: string | Message[], options?: GenerateOptions): Promise<Generation> =>
    this.#generate(images, prompt, options ?? {});

  stream = (images: ImageInput | ImageInput[], prompt?: string | Message[], options: GenerateOptions = {}): TextStream =>
    textStream((onPiece, left) => {
      const signal = options.signal === undefined ? left : AbortSignal.any([options.signal, left]);
      return this.#generate(images, prompt, { ...options, signal }, onPiece);
    });

  async #generate(
    inputs: ImageInput | ImageInput[],
    prompt: string | Message[] = CAPTION_PROMPT,
    { signal, ...request }: GenerateOptions,
    piece?: (text: string) => void,
  ): Promise<Generation> {
    const images = await bitmaps(inputs, signal);
    const asked = typeof prompt === "string" ? { prompt } : { messages: prompt };
    const answer: Answer = await this.#remote.call(
      "generate",
      { images, request: { ...request, ...asked } },
      { transfer: images, signal, ...(piece && { piece }) },
    );
    const { ttft_ms, encode_ms, prefill_ms, tokens_per_s } = answer.timings;
    return { ...answer, ttft_ms, encode_ms, prefill_ms, tokens_per_s, ...this.#provenance(answer.device) };
  }

  embedImages = async (inputs: ImageInput | ImageInput[]): Promise<Embeddings> => {
    const images = await bitmaps(inputs);
    return this.#embeddings(await this.#remote.call("embed_images", { images }, { transfer: images }));
  };

  embedTexts = async (texts: string | string[]): Promise<Embeddings> =>
    this.#embeddings(await this.#remote.call("embed_texts", { texts: [texts].flat() }));

  classify = async (image: ImageInput, labels: string[], options: ClassifyOptions = {}): Promise<LabelScore[]> => {
    if (labels.length === 0) throw new OcelliError("usage", "there is no label to choose from");
    const templates = [options.hypothesis_template ?? LABEL_TEMPLATE].flat();
    const [picture] = (await this.embedImages(image)).rows;
    const vectors = await this.#labelVectors(labels, templates);
    const similarities = vectors.map((vector) => dot(picture!, vector));
    const scores = softmax(similarities.map((similarity) => similarity * this.#loaded.logit_scale!));
    return labels
      .map((label, i) => ({ label, score: scores[i]!, similarity: similarities[i]! }))
      .sort((a, b) => b.score - a.score);
  };

  /** One vector of length 1 a label: the normalised mean over the templates. */
  async #labelVectors(labels: string[], templates: string[]): Promise<Float32Array[]> {
    const keyOf = (label: string): string => JSON.stringify([label, templates]);
    const missing = [...new Set(labels)].filter((label) => !this.#labels.has(keyOf(label)));
    if (missing.length > 0) {
      const { rows } = await this.embedTexts(missing.flatMap((label) => templates.map((template) => fill(template, label))));
      missing.forEach((label, i) => {
        this.#labels.set(keyOf(label), mean(rows.slice(i * templates.length, (i + 1) * templates.length)));
      });
    }
    return labels.map((label) => this.#labels.get(keyOf(label))!);
  }

  #embeddings({ rows, embed_ms, device }: Embedded): Embeddings {
    const width = rows[0]?.length ?? 0;
    const data = new Float32Array(rows.length * width);
    rows.forEach((row, i) => data.set(row, i * width));
    return { dims: [rows.length, width], data, rows, embed_ms, ...this.#provenance(device) };
  }

  #provenance(device: DeviceName): Provenance {
    return { device, bytes_downloaded: this.#loaded.bytes_downloaded, bytes_sent: 0 };
  }
}

/** Reads all pictures; when one fails, or the signal comes, none is left open. */
async function bitmaps(inputs: ImageInput | ImageInput[], signal?: AbortSignal): Promise<ImageBitmap[]> {
  signal?.throwIfAborted();
  const read = await Promise.allSettled([inputs].flat().map((input) => toBitmap(input as ImageInput, signal)));
  const images = read.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  const failed = read.find((one) => one.status === "rejected");
  if (failed === undefined && signal?.aborted !== true) return images;
  for (const image of images) image.close();
  signal?.throwIfAborted();
  throw failed!.reason;
}

function fill(template: string, label: string): string {
  return template.includes("{}") ? template.replaceAll("{}", label) : `${template} ${label}`;
}

function mean(rows: Float32Array[]): Float32Array {
  if (rows.length === 1) return rows[0]!;
  const sum = rows[0]!.map((_, i) => rows.reduce((total, row) => total + row[i]!, 0));
  const length = Math.sqrt(dot(sum, sum)) || 1;
  return sum.map((value) => value / length);
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

function softmax(logits: number[]): number[] {
  const most = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp(logit - most));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}
