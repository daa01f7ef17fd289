// Starts the system's Chromium. Where there is none, tests say aloud that they are skipped.

import { existsSync, mkdtempSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { chromium, type BrowserContext, type Page } from "playwright-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/** The browser's program: CHROMIUM, Debian's own, or what PATH has; null without one. */
export const CHROMIUM = find();

function find(): string | null {
  const asked = process.env["CHROMIUM"];
  const onPath = (process.env["PATH"] ?? "").split(delimiter).flatMap((folder) => NAMES.map((name) => join(folder, name)));
  // Debian's /usr/bin/chromium is a shell script around the one in /usr/lib.
  const places = asked ? [asked] : ["/usr/lib/chromium/chromium", ...onPath];
  const found = places.find((place) => existsSync(place)) ?? null;
  if (found === null) console.log("SKIPPED: browser tests need Chromium (set CHROMIUM, or install the package chromium)");
  return found;
}

/** For `test(name, needsChromium, …)`. */
export const needsChromium: { skip?: string } = CHROMIUM === null ? { skip: "SKIPPED: there is no Chromium" } : {};

/** Chromium has been seen to wait for ever when it was asked to end: after this it is made to. */
const CLOSING_MS = 20_000;

export interface LaunchOptions {
  /** A profile to go on with; a fresh one is made and removed otherwise. */
  profile?: string;
  /** Offers WebGPU on a software adapter. */
  webgpu?: boolean;
  /** A .y4m file to show as the camera; "none" for a machine without one; "denied" when the visitor says no. */
  camera?: string | "none" | "denied";
  width?: number;
  height?: number;
  dark?: boolean;
  /** More of Chromium's switches. */
  args?: string[];
}

export interface Browser {
  context: BrowserContext;
  page: Page;
  profile: string;
  close(): Promise<void>;
}

export async function launch(options: LaunchOptions = {}): Promise<Browser> {
  const profile = options.profile ?? newProfile();
  const args = [
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    ...(options.args ?? []),
  ];
  if (options.webgpu) args.push("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader");
  if (options.camera !== "none") args.push("--use-fake-device-for-media-stream");
  if (options.camera !== "denied") args.push("--use-fake-ui-for-media-stream");
  if (options.camera !== undefined && !["none", "denied"].includes(options.camera)) {
    args.push(`--use-file-for-fake-video-capture=${options.camera}`);
  }
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM!,
    headless: true,
    args,
    viewport: { width: options.width ?? 1180, height: options.height ?? 800 },
    colorScheme: options.dark ? "dark" : "light",
    reducedMotion: "reduce",
  });
  context.setDefaultTimeout(30_000);
  const page = context.pages()[0] ?? (await context.newPage());
  const close = async (): Promise<void> => {
    const late = setTimeout(() => kill(profile), CLOSING_MS);
    await context.close().finally(() => clearTimeout(late));
    if (options.profile === undefined) rmSync(profile, { recursive: true, force: true });
  };
  return { context, page, profile, close };
}

/** Ends the Chromium of a profile, whose lock is a link to "host-pid". */
function kill(profile: string): void {
  try {
    const pid = Number(readlinkSync(join(profile, "SingletonLock")).split("-").at(-1));
    process.kill(pid, "SIGKILL");
    console.log(`Chromium (${pid}) did not close within ${CLOSING_MS / 1000} s and was killed`);
  } catch {
    // It has ended by now.
  }
}

export function newProfile(): string {
  return mkdtempSync(join(tmpdir(), "ocelli-chromium-"));
}
