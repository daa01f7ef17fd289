// An answer in pieces: pushed by the Worker, pulled by `for await`.

import type { TextStream } from "./api.js";
import type { Generation } from "./types.js";

/** Runs `start` at once; its pieces are kept until they are read. */
export function textStream(
  start: (onPiece: (text: string) => void, signal: AbortSignal) => Promise<Generation>,
): TextStream {
  const pieces: string[] = [];
  const leave = new AbortController();
  let wake: () => void = () => undefined;
  let ended = false;

  const result = start((text) => {
    pieces.push(text);
    wake();
  }, leave.signal);
  const end = (): void => {
    ended = true;
    wake();
  };
  // Whoever reads only the pieces hears of a failure there; this is not a rejection that nobody handles.
  result.then(end, end);

  async function* read(): AsyncGenerator<string, void, void> {
    try {
      for (;;) {
        while (pieces.length > 0) yield pieces.shift()!;
        if (ended) break;
        await new Promise<void>((resolve) => (wake = resolve));
      }
      await result;
    } finally {
      if (!ended) leave.abort();
    }
  }
  const iterator = read();
  return { result, [Symbol.asyncIterator]: () => iterator };
}
