// The interfaces of the package that only a page can use; what they speak of is in types.ts.

import type {
  DeviceName,
  Embeddings,
  EngineInfo,
  GenerateOptions,
  Generation,
  LabelScore,
  Memory,
  MemoryPlan,
  Message,
  ProgressEvent,
  Task,
} from "./types.js";

/** Anything that holds a picture. A string or URL is fetched; a video gives the frame that it shows now. */
export type ImageInput =
  | ImageBitmap
  | ImageData
  | Blob
  | HTMLImageElement
  | HTMLVideoElement
  | HTMLCanvasElement
  | OffscreenCanvas
  | VideoFrame
  | URL
  | string;

export interface PipelineOptions {
  /** "auto" (the default) takes WebGPU when there is an adapter, otherwise WebAssembly, and says which and why. */
  device?: DeviceName | "auto";
  /** Numbers to compute with, as the engine knows them ("auto", "f32", "f16"). */
  dtype?: string;
  /** Called with every event of the download and of the load. */
  progress_callback?: (event: ProgressEvent) => void;
  /** Called once, before any weight is downloaded. Returning false (or a promise of it) ends the load. */
  on_plan?: (plan: MemoryPlan) => boolean | void | Promise<boolean | void>;
  /** Ends the load with an AbortError. What was downloaded is kept, and the next load goes on from there. */
  signal?: AbortSignal;
  /** "auto" keeps models in the origin-private file system; "memory" keeps nothing. */
  storage?: "auto" | "memory";
  /** How often a broken connection is tried again without a single byte of progress; 4 unless given. */
  retries?: number;
  /** Start the Worker from a Blob, so that it inherits this page's content-security policy. */
  inherit_csp?: boolean;
  /** Where `worker.js` is, when a bundler has moved it. */
  worker_url?: string | URL;
  /** Where the engine's `ocelli_web.js` is, when it is not in `pkg/` beside the Worker. */
  engine_url?: string | URL;
}

interface Pipeline {
  readonly task: Task;
  readonly model: string;
  readonly device: DeviceName;
  readonly info: EngineInfo;
  readonly bytes_downloaded: number;
  memory(): Promise<Memory>;
  /** Ends the Worker, and with it everything that it holds. Running calls fail. */
  dispose(): Promise<void>;
}

/** Pieces of an answer while it is made. Leaving the loop early stops the answer. */
export interface TextStream extends AsyncIterable<string> {
  /** The whole answer, once it ended. */
  readonly result: Promise<Generation>;
}

export interface ImageTextPipeline extends Pipeline {
  (image: ImageInput | ImageInput[], prompt?: string | Message[], options?: GenerateOptions): Promise<Generation>;
  stream(image: ImageInput | ImageInput[], prompt?: string | Message[], options?: GenerateOptions): TextStream;
}

/** All three MobileCLIP tasks can embed both kinds: one loaded model serves a whole image search. */
export interface EmbeddingPipeline extends Pipeline {
  embed_images(images: ImageInput | ImageInput[]): Promise<Embeddings>;
  embed_texts(texts: string | string[]): Promise<Embeddings>;
}

export interface ClassifyOptions {
  /** Sentences with `{}` for the label; several are averaged. "a photo of a {}." unless given. */
  hypothesis_template?: string | string[];
}

export interface ClassificationPipeline extends EmbeddingPipeline {
  (image: ImageInput, labels: string[], options?: ClassifyOptions): Promise<LabelScore[]>;
}

export interface ImageFeaturePipeline extends EmbeddingPipeline {
  (images: ImageInput | ImageInput[]): Promise<Embeddings>;
}

export interface TextFeaturePipeline extends EmbeddingPipeline {
  (texts: string | string[]): Promise<Embeddings>;
}
