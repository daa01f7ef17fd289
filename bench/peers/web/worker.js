// What the Workers of all engines share: they answer requests one after another, and time what they are asked for.

/** `load(spec)` answers `{ info, works }`; a work is `prepare(unit)`, which answers a function that runs once. */
export function serve(load) {
  let engine = null;
  const runs = new Map();
  onmessage = async ({ data: { start, work, unit, warmup, runs: count, seconds } }) => {
    try {
      if (start !== undefined) {
        engine = await load(start);
        return postMessage({ info: engine.info });
      }
      const key = JSON.stringify([work, unit]);
      if (!runs.has(key)) runs.set(key, await engine.works[work](unit));
      postMessage(await measure(runs.get(key), warmup, count, seconds));
    } catch (error) {
      postMessage({ error: String(error?.message ?? error) });
    }
  };
}

/** A run answers `{ ms, … }`; without `ms` it is timed as a whole. No run begins after `seconds`. */
async function measure(run, warmup, count, seconds) {
  let last = {};
  for (let i = 0; i < warmup; i++) last = await run();
  const times_ms = [];
  const begin = performance.now();
  for (let i = 0; i < count; i++) {
    const from = performance.now();
    if (i > 0 && from - begin > 1000 * seconds) break;
    last = await run();
    times_ms.push(last.ms ?? performance.now() - from);
  }
  const { ms, ...more } = last;
  return { times_ms, ...more };
}

export async function fetched(address, kind) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: HTTP ${response.status}`);
  return response[kind]();
}

/** Pixels that look like nothing, RGBA; another picture for another seed. */
export function noise(side, seed) {
  const data = new Uint8Array(4 * side * side);
  let state = seed;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data[i] = i % 4 === 3 ? 255 : state >>> 24;
  }
  return { data, width: side, height: side };
}
