// The demo page in a real browser, with a film as its camera. With OCELLI_WEB_SCREENSHOTS=DIR it also writes the
// pictures of docs/images.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Page } from "playwright-core";
import { serve } from "../server.mjs";
import { type Browser, type LaunchOptions, launch, needsChromium } from "./chromium.js";
import { ENGINE, Site, WEB, fakeOnly } from "./site.js";
import { type Figure, type Scene, writeFilm } from "./video.js";

const run = { ...needsChromium, timeout: 90_000 };
const steered = { ...run, ...fakeOnly };
const SCREENSHOTS = process.env["OCELLI_WEB_SCREENSHOTS"] ?? null;

const SIDE = { width: 256, height: 256 };
const SQUARE: Figure = { kind: "square", colour: [240, 240, 240], x: 60, y: 60, size: 24 };
/** What the stand-in tells apart: grounds. */
const GROUNDS: Scene[] = [
  { ground: [200, 30, 30], figures: [SQUARE] },
  { ground: [30, 60, 200], figures: [SQUARE] },
];
/** What ocelli-tiny was trained on. */
const SCENES: Scene[] = [
  {
    ground: [250, 250, 250],
    figures: [
      { kind: "diamond", colour: [128, 0, 128], x: 87, y: 153, size: 25 },
      { kind: "triangle", colour: [255, 165, 0], x: 175, y: 166, size: 25 },
    ],
  },
  { ground: [250, 250, 250], figures: [{ kind: "circle", colour: [30, 60, 220], x: 128, y: 120, size: 36 }] },
];

/** Pictures to search among: what the stand-in tells apart, and what ocelli-tiny-clip was trained on. */
const COLOURS = { "poppies.png": "rgb(200 30 30)", "meadow.png": "rgb(30 160 30)", "sea.png": "rgb(30 60 200)", "night.png": "rgb(14 14 24)", "brick.png": "rgb(170 50 40)", "lake.png": "rgb(40 110 190)" };
const SHAPES: { [name: string]: Shape } = {
  "balloon.png": { colour: "rgb(30 60 220)", kind: "circle" },
  "kite.png": { colour: "rgb(128 0 128)", kind: "diamond" },
  "tomato.png": { colour: "rgb(220 20 30)", kind: "circle" },
  "tent.png": { colour: "rgb(255 165 0)", kind: "triangle" },
  "stamp.png": { colour: "rgb(30 60 220)", kind: "square" },
  "leaf.png": { colour: "rgb(20 150 40)", kind: "diamond" },
};

interface Shape {
  colour: string;
  kind: Figure["kind"];
}

let site: Site;
let films: string;
let moving: string;
let still: string;

before(async () => {
  if (run.skip !== undefined) return;
  site = await Site.start();
  films = mkdtempSync(join(tmpdir(), "ocelli-films-"));
  moving = join(films, "moving.y4m");
  still = join(films, "still.y4m");
  writeFilm(moving, ENGINE === null ? GROUNDS : SCENES, 30, SIDE, ENGINE === null ? 8 : 0);
  writeFilm(still, ENGINE === null ? [{ ground: [30, 160, 30], figures: [SQUARE] }] : SCENES.slice(1), 15, SIDE);
  site.publish("talker");
  site.publish("finder", { kind: "mobileclip" });
  site.index([
    { folder: "talker", kind: "fastvlm", name: "FastVLM" },
    { folder: "finder", kind: "mobileclip", name: "MobileCLIP" },
  ]);
});

after(async () => {
  await site?.stop();
  if (films !== undefined) rmSync(films, { recursive: true });
});

/** Opens the page in a fresh browser, runs, and checks that nothing was written to the console as an error. */
async function visit(options: LaunchOptions & { query?: string }, act: (page: Page, browser: Browser) => Promise<void>): Promise<void> {
  site.intercept = () => false;
  const browser = await launch(options);
  const { page } = browser;
  const errors: string[] = [];
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  try {
    await page.goto(site.url(`index.html${options.query ?? ""}`));
    await act(page, browser);
    // Broken connections and missing files are part of some tests, and Chromium reports them.
    assert.deepEqual(errors.filter((text) => !/Failed to load resource/.test(text)), []);
  } finally {
    await browser.close();
  }
}

async function shoot(page: Page, name: string): Promise<void> {
  if (SCREENSHOTS !== null) await page.screenshot({ path: join(SCREENSHOTS, `web-${name}.png`) });
}

async function download(page: Page): Promise<void> {
  await page.getByRole("button", { name: "Download" }).click();
  await ready(page);
}

async function ready(page: Page): Promise<void> {
  await page.locator("#start:not(:disabled)").or(page.locator("#query:not(:disabled)")).first().waitFor();
}

async function loadedPage(page: Page): Promise<void> {
  await download(page);
  await page.locator("#look-model").waitFor({ state: "hidden" });
}

/** A PNG of one colour with a shape on it. */
async function picture(page: Page, colour: string): Promise<Buffer> {
  const base64 = await page.evaluate((colour) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [320, 240];
    const context = canvas.getContext("2d")!;
    context.fillStyle = colour;
    context.fillRect(0, 0, 320, 240);
    context.globalAlpha = 0.25;
    context.fillStyle = "white";
    context.beginPath();
    context.arc(160, 130, 60, 0, 7);
    context.fill();
    return canvas.toDataURL("image/png").split(",")[1]!;
  }, colour);
  return Buffer.from(base64, "base64");
}

/** A PNG of a shape on white. */
async function shape(page: Page, { colour, kind }: Shape): Promise<Buffer> {
  const base64 = await page.evaluate(
    ([colour, kind]) => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [256, 256];
      const context = canvas.getContext("2d")!;
      context.fillStyle = "rgb(250 250 250)";
      context.fillRect(0, 0, 256, 256);
      context.translate(118, 124);
      context.fillStyle = colour;
      context.beginPath();
      if (kind === "circle") context.arc(0, 0, 44, 0, 7);
      if (kind === "square") context.rect(-40, -40, 80, 80);
      const corners = { circle: [], square: [], diamond: [[0, -50], [38, 0], [0, 50], [-38, 0]], triangle: [[0, -44], [44, 44], [-44, 44]] }[kind];
      for (const [x, y] of corners) context.lineTo(x!, y!);
      context.fill();
      return canvas.toDataURL("image/png").split(",")[1]!;
    },
    [colour, kind] as const,
  );
  return Buffer.from(base64, "base64");
}

test("from the plan over the download to captions of the camera", run, async () => {
  await visit({ camera: moving }, async (page) => {
    await page.getByRole("heading", { name: "FastVLM is not on this device yet" }).waitFor();
    assert.match(await page.locator("#look-model").innerText(), /Download\s+\d/);
    assert.ok(await page.locator("#start").isDisabled());
    assert.equal(site.sent("/models/talker/model"), 0, "nothing is downloaded before the visitor agrees");
    await shoot(page, "plan");

    site.intercept = async (request) => {
      if (/talker\/model\.safetensors\.002/.test(request.url!)) await new Promise((wake) => setTimeout(wake, 1500));
      return false;
    };
    await page.getByRole("button", { name: "Download" }).click();
    await page.getByRole("heading", { name: "Downloading: FastVLM" }).waitFor();
    await page.getByText(/MB of [\d.]+ MB/).waitFor();
    await shoot(page, "download");
    await page.locator("#look-model").waitFor({ state: "hidden" });
    assert.match(await page.locator("#device").innerText(), /processor, because .*adapter/);

    await page.getByRole("button", { name: "Start" }).click();
    const caption = page.locator("#caption");
    if (ENGINE === null) {
      await caption.getByText(/^A red picture of/).waitFor();
      await caption.getByText(/^A blue picture of/).waitFor();
    } else {
      await caption.getByText(/purple diamond/).waitFor();
    }
    await page.locator("#history li").nth(1).waitFor();
    assert.match(await page.locator("#figure-ttft").innerText(), /ms|s$/);
    assert.match(await page.locator("#figure-speed").innerText(), /tokens\/s/);
    assert.match(await page.locator("#figure-memory").innerText(), /B$/);
    await page.waitForFunction(() => /\.$/.test(document.getElementById("caption")!.innerText));
    await shoot(page, "live");
    await page.getByRole("button", { name: "Stop" }).click();
    await page.locator("#stop:disabled").waitFor();
    const saved = page.waitForEvent("download");
    await page.locator("#save-json").click();
    const entries = JSON.parse(readFileSync(await (await saved).path(), "utf8"));
    assert.ok(entries.length >= 2);
    assert.deepEqual([entries[0].source, entries[0].question], ["camera", "Describe the image."]);
    const text = page.waitForEvent("download");
    await page.locator("#save-text").click();
    assert.match(readFileSync(await (await text).path(), "utf8"), /\[camera\] Describe the image\./);
    await page.locator("#clear").click();
    assert.equal(await page.locator("#history li").count(), 0);
  });
});

test("a picture that does not change is not looked at again; a new question is asked at once", run, async () => {
  await visit({ camera: still }, async (page) => {
    await loadedPage(page);
    await page.getByRole("button", { name: "Start" }).click();
    await page.getByText("Nothing changed").waitFor();
    await page.waitForTimeout(1000);
    assert.equal(await page.locator("#history li").count(), 1);
    assert.doesNotMatch(await page.locator("#history li").innerText(), /times/);
    await page.locator("#question").fill("What colour is it?");
    await page.keyboard.press("Enter");
    await page.locator("#history li").nth(1).waitFor();
    await page.waitForTimeout(500);
    assert.equal(await page.locator("#history li").count(), 2);
  });
});

test("Stop ends an answer at the next token", steered, async () => {
  site.publish("slow", { fake: { ms_per_token: 150 } });
  await visit({ camera: still, query: "?model=slow" }, async (page) => {
    await loadedPage(page);
    await page.getByRole("button", { name: "Start" }).click();
    await page.locator("#caption").getByText(/^A green/).waitFor();
    await page.keyboard.press("Escape");
    await page.locator("#stop:disabled").waitFor();
    const said = await page.locator("#caption").innerText();
    assert.ok(said.split(" ").length < 12, said);
    assert.match(await page.locator("#history li").first().innerText(), /stopped/);
    await page.waitForTimeout(500);
    assert.equal(await page.locator("#caption").innerText(), said);
  });
});

test("no camera: says so, and a picture does instead", run, async () => {
  await visit({ camera: "none" }, async (page) => {
    await loadedPage(page);
    await page.getByRole("button", { name: "Start" }).click();
    await page.getByText("There is no camera").waitFor();
    await shoot(page, "no-camera");
    await page.getByRole("button", { name: "Look at a picture" }).click();
    assert.equal(await page.evaluate(() => document.activeElement?.id), "choose");
    const buffer = ENGINE === null ? await picture(page, "rgb(30 60 200)") : readFileSync(join(WEB, "../docs/images/drawn-scene.png"));
    await page.locator("#file").setInputFiles({ name: "blue.png", mimeType: "image/png", buffer });
    await page.locator("#history li").first().waitFor();
    if (ENGINE === null) assert.match(await page.locator("#caption").innerText(), /^A blue picture of 320 by 240/);
    else assert.match(await page.locator("#caption").innerText(), /purple diamond/);
    assert.ok(await page.locator("#picture").isVisible());
    await shoot(page, "picture");
    await page.locator("#file").setInputFiles({ name: "notes.png", mimeType: "image/png", buffer: Buffer.from("text") });
    await page.getByText("notes.png cannot be read as one").waitFor();
  });
});

test("pictures can be dropped and pasted", run, async () => {
  await visit({ camera: moving }, async (page) => {
    await loadedPage(page);
    // In the middle of live captions, too.
    await page.getByRole("button", { name: "Start" }).click();
    await page.locator("#history li").first().waitFor();
    for (const kind of ["drop", "paste"] as const) {
      await page.locator("#clear").click();
      const bytes = [...(await picture(page, kind === "drop" ? "rgb(30 160 30)" : "rgb(240 240 240)"))];
      await page.evaluate(
        ([kind, bytes]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
          dispatchEvent(kind === "drop" ? new DragEvent("drop", { dataTransfer: data, cancelable: true }) : new ClipboardEvent("paste", { clipboardData: data }));
        },
        [kind, bytes] as const,
      );
      await page.locator("#history li", { hasText: "picture ·" }).waitFor();
      await page.locator("#stop:disabled").waitFor();
      assert.ok(await page.locator("input[value=picture]").isChecked());
    }
  });
});

test("a shared screen is looked at", run, async () => {
  await visit({ args: ["--auto-select-tab-capture-source-by-title=Ocelli"] }, async (page) => {
    await loadedPage(page);
    await page.getByRole("radio", { name: "Screen" }).check();
    await page.getByRole("button", { name: "Start" }).click();
    await page.locator("#history li").first().waitFor();
    assert.match(await page.locator("#history li").first().innerText(), /screen ·/);
  });
});

test("a camera that is not allowed is said", run, async () => {
  await visit({ camera: "denied" }, async (page) => {
    await loadedPage(page);
    await page.getByRole("button", { name: "Start" }).click();
    await page.getByText("The camera is not allowed").waitFor();
    await shoot(page, "denied");
  });
});

test("a download that fails goes on where it stopped", run, async () => {
  await visit({}, async (page) => {
    const path = "models/talker/model.safetensors";
    site.intercept = (request, response) => {
      if (request.url === `/${path}.001` || request.url === `/${path}`) {
        response.destroy();
        return true;
      }
      return false;
    };
    const small = site.requests.length;
    await page.getByRole("button", { name: "Download" }).click();
    await page.getByRole("heading", { name: "The download did not finish" }).waitFor({ timeout: 60_000 });
    await shoot(page, "download-failed");
    site.intercept = () => false;
    await page.getByRole("button", { name: "Go on" }).click();
    await ready(page);
    const first = site.requests.slice(small).filter((seen) => seen.path === `/${path}.000`);
    if (ENGINE === null) assert.equal(first.length, 1, "the shard that was whole is not fetched again");
  });
});

test("a damaged download is explained", steered, async () => {
  site.publish("damaged");
  await visit({ query: "?model=damaged" }, async (page) => {
    site.intercept = (request, response) => {
      if (!request.url!.endsWith("/vocab.json")) return false;
      response.writeHead(200, { "content-length": 2 });
      response.end("[]");
      return true;
    };
    await page.getByRole("button", { name: "Download" }).click();
    await page.getByRole("heading", { name: "The model could not be kept" }).waitFor();
    assert.match(await page.locator("#look-model").innerText(), /SHA-256/);
    site.intercept = () => false;
    await page.getByRole("button", { name: "Delete the kept copy" }).click();
    await loadedPage(page);
  });
});

test("a lost GPU: the page says so and starts again without a download", run, async () => {
  site.publish("losing", { fake: { lose_device_at: 2 } });
  await visit({ webgpu: true, camera: moving, query: "?model=losing&device=webgpu" }, async (page, { context }) => {
    await loadedPage(page);
    assert.match(await page.locator("#device").innerText(), /WebGPU/);
    await page.getByRole("button", { name: "Start" }).click();
    const lost = page.getByRole("heading", { name: "The GPU was lost" });
    if (ENGINE !== null) {
      const answers = page.locator("#history li");
      await answers.first().waitFor();
      site.forget();
      // With its GPU process Chromium loses all devices.
      const browser = await context.browser()!.newBrowserCDPSession();
      await browser.send("Browser.crashGpuProcess");
      const said = await answers.count();
      // The engine opens the GPU again, or takes the processor; only half an answer ends with the page saying so.
      await answers.nth(said + 1).or(lost).first().waitFor();
      assert.equal(site.sent("/models/losing/model"), 0);
      if (!(await lost.isVisible())) return;
    }
    await lost.waitFor();
    await shoot(page, "gpu-lost");
    site.forget();
    await page.getByRole("button", { name: "Use the processor" }).click();
    await page.locator("#look-model").waitFor({ state: "hidden" });
    assert.match(await page.locator("#device").innerText(), /processor/);
    assert.equal(site.sent("/models/losing/model"), 0);
  });
});

test("a host without models gets an explanation", run, async () => {
  await visit({}, async (page) => {
    site.intercept = (request, response) => request.url === "/models/index.json" && (response.writeHead(404).end(), true);
    await page.reload();
    await page.getByRole("heading", { name: "There is no FastVLM model here" }).waitFor();
    assert.match(await page.locator("#look-model").innerText(), /ocelli web export/);
  });
});

test("search: the nearest picture comes first, for words and for a picture", run, async () => {
  await visit({}, async (page) => {
    await page.getByRole("tab", { name: "Search" }).click();
    await page.locator("#search-model").getByRole("button", { name: "Download" }).click();
    await page.locator("#query:not(:disabled)").waitFor();
    const files = await Promise.all(
      Object.entries(ENGINE === null ? COLOURS : SHAPES).map(async ([name, looks]) => {
        const buffer = typeof looks === "string" ? await picture(page, looks) : await shape(page, looks);
        return { name, mimeType: "image/png", buffer };
      }),
    );
    const [words, nearest, chosen] = ENGINE === null ? ["something blue", "", "poppies.png"] : ["a blue circle", "balloon.png", "kite.png"];
    await page.locator("#files").setInputFiles([...files, { name: "broken.png", mimeType: "image/png", buffer: Buffer.from("x") }]);
    await page.getByText("6 pictures, 1 could not be read").waitFor();
    await page.locator("#query").fill(words!);
    await page.locator("#query").press("Enter");
    await page.locator(".tile i").first().waitFor();
    const names = (): Promise<string[]> => page.locator(".tile b").allInnerTexts();
    if (ENGINE === null) assert.deepEqual((await names()).slice(0, 2).sort(), ["lake.png", "sea.png"]);
    else assert.equal((await names())[0], nearest);
    await shoot(page, "search");
    await page.locator(".tile", { hasText: chosen! }).click();
    await page.getByText(`nearest to ${chosen} first`).waitFor();
    assert.equal((await names())[0], chosen);
    if (ENGINE === null) assert.equal((await names())[1], "brick.png");
  });
});

test("bench: measures, shows median and P90, saves JSON with the adapter", run, async () => {
  // Engines without WebGPU are measured on the processor.
  await visit({ webgpu: true, query: ENGINE === null ? "?device=webgpu" : "" }, async (page) => {
    await loadedPage(page);
    await page.getByRole("tab", { name: "Bench" }).click();
    await page.locator("#runs").fill("3");
    await page.locator("#tokens").fill("8");
    await page.locator("#bench-start").click();
    await page.getByText("Done: 3 answers of 8 tokens.").waitFor();
    await shoot(page, "bench");
    const saved = page.waitForEvent("download");
    await page.locator("#bench-save").click();
    const report = JSON.parse(readFileSync(await (await saved).path(), "utf8"));
    assert.equal(report.runs, 3);
    assert.equal(report.device, ENGINE === null ? "webgpu" : "wasm");
    assert.match(report.machine.adapter.vendor, /\S/);
    assert.equal(report.machine.adapter.software, true);
    assert.equal(report.correctness_only, ENGINE === null, "on a software adapter");
    assert.equal(await page.locator("#bench-software").isVisible(), ENGINE === null);
    assert.deepEqual(names(report), names(documentedReport()));
    for (const { values, median, p90 } of report.steps) {
      assert.equal(values.length, 3);
      assert.ok(values.includes(median) && values.includes(p90));
    }
  });
});

/** The example of a saved report in docs/browser.md. */
function documentedReport(): object {
  const text = readFileSync(join(WEB, "../docs/browser.md"), "utf8");
  return JSON.parse(/```json\n(\{\n  "format": 1,\n  "at":[\s\S]*?)```/.exec(text)![1]!);
}

/** Names of all fields, of lists those of their first entry. What the engine tells about itself is its own affair. */
function names(value: unknown, path = ""): string[] {
  if (typeof value !== "object" || value === null || path === ".info" || path.endsWith(".limits")) return [path];
  if (Array.isArray(value)) return names(value[0], `${path}[]`);
  return Object.entries(value).flatMap(([name, inner]) => names(inner, `${path}.${name}`)).sort();
}

test("the policy lets nothing of another origin in, neither page nor Worker", run, async () => {
  const other = await Site.start();
  other.publish("foreign");
  const lonely = await serve(other.folder, { headers: { "access-control-allow-origin": "*" } });
  const foreign = `http://127.0.0.1:${(lonely.address() as AddressInfo).port}`;
  let asked = 0;
  lonely.on("request", () => asked++);
  const browser = await launch();
  try {
    await browser.page.goto(site.url("index.html"));
    const seen = await browser.page.evaluate(async (foreign) => {
      const failed = (promise: Promise<unknown>): Promise<boolean> => promise.then(() => false, () => true);
      const image = new Image();
      image.src = `${foreign}/icon.svg`;
      const { pipeline } = (await import(`${location.origin}/ocelli.js`)) as typeof window.ocelli;
      const codeOf = (promise: Promise<unknown>): Promise<string> => promise.then(() => "loaded", (error) => error.code);
      return {
        fetch: await failed(fetch(`${foreign}/icon.svg`)),
        image: await failed(image.decode()),
        script: await failed(import(`${foreign}/ocelli.js`)),
        // In a Worker that inherits the page's policy, and over the network rather than from a kept copy.
        model: await codeOf(pipeline("image-to-text", `${foreign}/models/foreign/`, { inherit_csp: true })),
        engine: await codeOf(pipeline("image-to-text", "models/talker", { inherit_csp: true, engine_url: `${foreign}/pkg/ocelli_web.js` })),
      };
    }, foreign);
    assert.deepEqual(seen, { fetch: true, image: true, script: true, model: "network", engine: "engine" });
    assert.equal(asked, 0, "no request reached the other origin");
    // What the test would see without a policy: a Worker with its own address does not take the page's.
    const free = await browser.page.evaluate(async (foreign) => {
      const { pipeline } = (await import(`${location.origin}/ocelli.js`)) as typeof window.ocelli;
      const pipe = await pipeline("image-to-text", `${foreign}/models/foreign/`);
      await pipe.dispose();
      return pipe.model;
    }, foreign);
    assert.equal(free, "foreign");
    assert.ok(asked > 0);
  } finally {
    await browser.close();
    lonely.closeAllConnections();
    lonely.close();
    await other.stop();
  }
});

test("everything can be done with the keyboard, and has a name", run, async () => {
  await visit({ camera: still }, async (page) => {
    const focused = (): Promise<string> => page.evaluate(() => document.activeElement?.id || document.activeElement?.textContent || "");
    const tabTo = async (wanted: string): Promise<void> => {
      for (let i = 0; i < 40; i++) {
        if ((await focused()) === wanted) return;
        await page.keyboard.press("Tab");
      }
      assert.fail(`Tab does not reach ${wanted}`);
    };
    await page.getByRole("button", { name: "Download" }).waitFor();
    await tabTo("Download");
    await page.keyboard.press("Enter");
    await ready(page);
    await tabTo("question");
    await page.keyboard.press("Enter");
    await page.locator("#history li").first().waitFor();
    await tabTo("stop");
    await page.keyboard.press("Space");
    await page.locator("#stop:disabled").waitFor();
    assert.equal(await focused(), "start", "the focus is not lost with the button");
    assert.match(await page.locator("#said").innerText(), /\S/, "the answer is told to screen readers");
    await page.locator("#tab-look").focus();
    await page.keyboard.press("ArrowRight");
    assert.equal(await focused(), "tab-search");
    assert.ok(await page.locator("#search").isVisible());
    await page.keyboard.press("End");
    assert.ok(await page.locator("#bench").isVisible());
    await page.keyboard.press("Home");
    assert.ok(await page.locator("#look").isVisible());
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll<HTMLInputElement>("button, input, select, textarea, progress, video, img")]
        .filter((element) => !(element.labels?.length || element.ariaLabel || element.textContent?.trim() || element.hasAttribute("alt") || element.title))
        .map((element) => element.outerHTML),
    );
    assert.deepEqual(nameless, []);
  });
});

test("a phone's width is enough, in the dark too", run, async () => {
  await visit({ camera: still, width: 360, height: 740, dark: true }, async (page) => {
    const overflow = (): Promise<number> => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    await page.getByRole("button", { name: "Download" }).waitFor();
    assert.equal(await overflow(), 0);
    await loadedPage(page);
    await page.getByRole("button", { name: "Start" }).click();
    await page.locator("#history li").first().waitFor();
    assert.equal(await overflow(), 0);
    await shoot(page, "phone");
    for (const tab of ["search", "bench"]) {
      await page.locator(`#tab-${tab}`).click();
      await page.waitForTimeout(200);
      assert.equal(await overflow(), 0, tab);
    }
  });
});

test("texts have contrast AA in both colour schemes; movement can be switched off", run, async () => {
  for (const dark of [false, true]) {
    await visit({ dark }, async (page) => {
      const ratios = await page.evaluate(() => {
        const style = getComputedStyle(document.documentElement);
        const light = (name: string): number => {
          const hex = style.getPropertyValue(name).trim();
          const [r, g, b] = [1, 3, 5].map((at) => {
            const value = parseInt(hex.slice(at, at + 2), 16) / 255;
            return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
          }) as [number, number, number];
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const pairs: [string, string, number][] = [
          ["--text", "--ground", 4.5], ["--text", "--raised", 4.5], ["--text", "--empty", 4.5], ["--text", "--alarm-ground", 4.5],
          ["--quiet", "--ground", 4.5], ["--quiet", "--raised", 4.5], ["--quiet", "--empty", 4.5],
          ["--accent", "--raised", 4.5], ["--on-accent", "--accent", 4.5], ["--alarm", "--alarm-ground", 4.5],
          ["--edge", "--ground", 3], ["--edge", "--raised", 3],
        ];
        return pairs.map(([a, b, least]) => {
          const [x, y] = [light(a), light(b)];
          return { pair: `${a} on ${b}`, ratio: (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05), least };
        });
      });
      for (const { pair, ratio, least } of ratios) assert.ok(ratio >= least, `${pair}: ${ratio.toFixed(2)}${dark ? " (dark)" : ""}`);
      const animation = (): Promise<string> =>
        page.evaluate(() => {
          const pill = document.getElementById("pill")!;
          pill.hidden = false;
          pill.classList.add("live");
          return getComputedStyle(pill, "::before").animationName;
        });
      await page.emulateMedia({ reducedMotion: "no-preference" });
      assert.equal(await animation(), "breathe");
      await page.emulateMedia({ reducedMotion: "reduce" });
      assert.equal(await animation(), "none");
    });
  }
});
