// FastVLM and MobileCLIP in a browser page. See README.md for an example, docs/browser.md for everything else.

export { pipeline } from "./pipeline.js";
export { listModels, deleteModel } from "./kept.js";
export { OcelliError, type ErrorCode } from "./error.js";
export type * from "./api.js";
export type * from "./types.js";
