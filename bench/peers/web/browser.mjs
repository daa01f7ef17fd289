// Chromium with the page, driven by lines of JSON: `node browser.mjs SPEC`.
//
// SPEC has `site` (the folder to serve), `npm` (where playwright-core is) and `chromium` (its program, or null). Each
// line on stdin is {"call": "start" | "ask" | "end", …}, and each answer a line: what the page answered, or {"error"}.

import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { serve } from "../../../web/server.mjs";

const { site, npm, chromium: program } = JSON.parse(process.argv[2]);
const { chromium } = createRequire(join(npm, "package.json"))("playwright-core");
// Whoever started this is gone.
process.stdout.on("error", () => process.exit(1));
const answer = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const server = await serve(site);
const profile = mkdtempSync(join(tmpdir(), "ocelli-bench-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: program,
  headless: true,
  args: ["--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"],
});
try {
  const page = context.pages()[0] ?? (await context.newPage());
  await page.goto(`http://127.0.0.1:${server.address().port}/page.html`);
  await page.waitForFunction(() => window.bench !== undefined);
  const isolated = await page.evaluate(() => crossOriginIsolated);
  answer({ browser: `Chromium ${context.browser()?.version()}`, isolated });
  for await (const line of createInterface({ input: process.stdin })) {
    const { call, ...request } = JSON.parse(line);
    try {
      answer(await page.evaluate(([call, request]) => window.bench[call](request), [call, request]));
    } catch (error) {
      answer({ error: String(error.message ?? error).split("\n")[0].replace(/^page\.evaluate: (Error: )?/, "") });
    }
  }
} finally {
  await context.close();
  server.close();
  rmSync(profile, { recursive: true, force: true });
}
