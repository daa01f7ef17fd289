// Starts the WebAssembly engine and chooses the device.

import type { EngineModule } from "../engine.js";
import { OcelliError, sentence } from "../error.js";
import type { DeviceName, Probe } from "../types.js";

/** Whether `pkg-relaxed/` was there when the package was built; set by build.mjs. */
declare const RELAXED_BUILD: boolean;

export interface Runtime {
  module: EngineModule;
  memory: WebAssembly.Memory | null;
  probe: Probe;
}

/** Loads the engine: the build with relaxed SIMD where the browser can run it. */
export async function startRuntime(override: string | null): Promise<Runtime> {
  const { script, wasm } = files(override);
  try {
    const module = (await import(/* @vite-ignore */ /* webpackIgnore: true */ script)) as EngineModule;
    const started = await module.default({ module_or_path: wasm });
    const probe = JSON.parse(await module.probe()) as Probe;
    return { module, memory: started.memory ?? null, probe };
  } catch (error) {
    throw new OcelliError(
      "engine",
      `the engine at ${script} did not start: ${sentence(error)}. Its files must lie in pkg/ beside worker.js, ` +
        "and the page's policy must allow 'wasm-unsafe-eval'.",
      { cause: error },
    );
  }
}

function files(override: string | null): { script: string; wasm: string } {
  if (override !== null) {
    return { script: override, wasm: override.replace(/\.js$/, "_bg.wasm") };
  }
  // Written out, so that bundlers see which files belong to the Worker.
  if (RELAXED_BUILD && hasRelaxedSimd()) {
    return {
      script: new URL("./pkg-relaxed/ocelli_web.js", import.meta.url).href,
      wasm: new URL("./pkg-relaxed/ocelli_web_bg.wasm", import.meta.url).href,
    };
  }
  return {
    script: new URL("./pkg/ocelli_web.js", import.meta.url).href,
    wasm: new URL("./pkg/ocelli_web_bg.wasm", import.meta.url).href,
  };
}

/** A module with one function, `i8x16.relaxed_swizzle` of two constants: valid only where relaxed SIMD is. */
function hasRelaxedSimd(): boolean {
  const header = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
  const type = [0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b]; // () -> v128
  const functions = [0x03, 0x02, 0x01, 0x00];
  const splat = (lane: number): number[] => [0x41, lane, 0xfd, 0x0f]; // i32.const, i8x16.splat
  const body = [0x00, ...splat(0), ...splat(0), 0xfd, 0x80, 0x02, 0x0b]; // no locals … end
  const code = [0x0a, body.length + 2, 0x01, body.length, ...body];
  return WebAssembly.validate(new Uint8Array([...header, ...type, ...functions, ...code]));
}

export interface Choice {
  device: DeviceName;
  adapter: string | null;
  reason: string;
}

/** The device for a wish. Throws when the wish cannot be fulfilled. */
export function chooseDevice(wish: DeviceName | "auto", probe: Probe): Choice {
  const adapter = probe.webgpu?.adapter ?? null;
  const none = probe.reason ?? "this browser offers no WebGPU adapter";
  if (wish === "webgpu") {
    if (adapter === null) throw new OcelliError("device", `WebGPU was asked for, but ${none}. Use device "wasm" or "auto".`);
    return { device: "webgpu", adapter, reason: `WebGPU on ${adapter}, as asked` };
  }
  if (!probe.simd) {
    throw new OcelliError("device", "this browser runs WebAssembly without SIMD, which the engine needs; use a newer one");
  }
  if (wish === "wasm") return { device: "wasm", adapter: null, reason: "WebAssembly on the processor, as asked" };
  if (adapter === null) return { device: "wasm", adapter, reason: `WebAssembly on the processor, because ${none}` };
  if (probe.webgpu?.fallback === true) {
    const reason = `WebAssembly on the processor, because the only WebGPU adapter (${adapter}) is software, which is slower`;
    return { device: "wasm", adapter: null, reason };
  }
  return { device: "webgpu", adapter, reason: `WebGPU on ${adapter}` };
}
