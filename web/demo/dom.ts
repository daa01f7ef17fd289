// Small words for the document.

/** The element with an id, which index.html has. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

/** A new element with properties and children. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function button(text: string, onClick: () => void, className = ""): HTMLButtonElement {
  const made = make("button", { type: "button", className }, text);
  made.addEventListener("click", onClick);
  return made;
}

/** Terms and what belongs to them, for a <dl>. */
export function pairs(entries: [string, string][]): HTMLElement[] {
  return entries.map(([term, text]) => make("div", {}, make("dt", {}, term), make("dd", {}, text)));
}

export function megabytes(bytes: number | null): string {
  if (bytes === null) return "unknown";
  if (bytes === 0) return "nothing";
  if (bytes < 1e6) return `${Math.ceil(bytes / 1e3)} KB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

export function milliseconds(ms: number): string {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

/** Hands the visitor a file. */
export function save(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Speaks to a screen reader, without interrupting it more often than some seconds. */
const SAY_EVERY_MS = 4000;
let lastSaid = -SAY_EVERY_MS;
export function say(text: string, always = false): void {
  const now = performance.now();
  if (!always && now - lastSaid < SAY_EVERY_MS) return;
  lastSaid = now;
  byId("said").textContent = text;
}
