// What the WebAssembly module `pkg/ocelli_web.js` exports (crates/ocelli-web). It is loaded when a model is, so
// only its shape is known here.

/** What a model folder holds. Reads are synchronous: the engine pulls tensor by tensor while it loads. */
export interface ModelFiles {
  names(): string[];
  size(name: string): number;
  /** Fills `target` from `offset`, or throws. */
  read(name: string, offset: number, target: Uint8Array): void;
}

/** Pixels as a canvas has them: RGBA, 8 bits, row-major. */
export interface EngineImage {
  data: Uint8Array;
  width: number;
  height: number;
}

export interface Engine {
  /** JSON of `EngineInfo`. */
  info(): string;
  /** Answers JSON: `text`, `token_ids`, `finish_reason`, `usage`, `timings`. Yields to the event loop once a token. */
  generate(images: EngineImage[], request_json: string, on_text: (piece: string) => void): Promise<string>;
  /** The running `generate` ends at the next token. */
  cancel(): void;
  embed_images(images: EngineImage[]): Promise<Float32Array[]>;
  embed_texts(texts: string[]): Promise<Float32Array[]>;
  /** What a cosine is multiplied by before the softmax. */
  logit_scale(): number;
  free(): void;
}

export interface EngineModule {
  /** Compiles and starts the module; answers its exports. */
  default(options: { module_or_path: string | URL }): Promise<{ memory?: WebAssembly.Memory }>;
  Engine: {
    load(
      files: ModelFiles,
      options_json: string,
      on_progress: (stage: string, done: number, total: number) => void,
    ): Promise<Engine>;
  };
  /** JSON of `Probe`. */
  probe(): Promise<string>;
}
