// One error type for everything that can go wrong, with a code to act on and a sentence that says what to do.

export type ErrorCode =
  | "usage"
  | "manifest"
  | "not-found"
  | "network"
  | "hash"
  | "quota"
  | "declined"
  | "storage"
  | "device"
  | "device-lost"
  | "engine"
  | "image"
  | "in-use"
  | "disposed"
  | "worker";

export class OcelliError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "OcelliError";
    this.code = code;
  }
}

/** An error as it travels between Worker and page. */
export interface WireError {
  code: ErrorCode | "aborted";
  message: string;
}

export function toWire(error: unknown): WireError {
  if (error instanceof OcelliError) return { code: error.code, message: error.message };
  if (isAbort(error)) return { code: "aborted", message: "The operation was aborted." };
  return { code: "engine", message: sentence(error) };
}

export function fromWire(error: WireError): Error {
  if (error.code === "aborted") return abortError();
  return new OcelliError(error.code, error.message);
}

export function abortError(): DOMException {
  return new DOMException("The operation was aborted.", "AbortError");
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

export function sentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
