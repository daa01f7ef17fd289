// The page: one Worker for each engine, which does nothing while it is not its turn.

const engines = new Map();

/** Loads an engine; answers what it says about itself. */
async function start({ name, script, ...spec }) {
  const worker = new Worker(`./${script}.js`, { type: "module" });
  engines.set(name, worker);
  return ask({ name, start: spec });
}

/** Hands a request to an engine, and answers its answer. */
function ask({ name, ...request }) {
  const worker = engines.get(name);
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => (data.error === undefined ? resolve(data) : reject(new Error(data.error)));
    worker.onerror = (event) => reject(new Error(event.message ?? "the Worker did not start"));
    worker.postMessage(request);
  });
}

function end({ name }) {
  engines.get(name)?.terminate();
  engines.delete(name);
  return {};
}

window.bench = { start, ask, end };
