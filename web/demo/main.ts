// The page: three tabs, the models that lie beside it, and what is dropped or pasted anywhere.
//
// `?model=NAME` takes the model in models/NAME/, `?search=NAME` another one for the Search tab, `?device=wasm` keeps
// away from the GPU.

import { pipeline, type EmbeddingPipeline, type ImageTextPipeline } from "ocelli";
import { Bench } from "./bench.js";
import { byId, make } from "./dom.js";
import { ModelCard } from "./loading.js";
import { Look } from "./look.js";
import { Search } from "./search.js";

/** `models/index.json`: what the host offers. */
interface Catalogue {
  models: { folder: string; kind: "fastvlm" | "mobileclip"; name?: string }[];
}

interface Offer {
  name: string;
  url: string;
}

const TABS = ["look", "search", "bench"] as const;
type Tab = (typeof TABS)[number];

const asked = new URLSearchParams(location.search);
const device = (["webgpu", "wasm"] as const).find((name) => name === asked.get("device")) ?? "auto";

let lookCard: ModelCard<ImageTextPipeline> | null = null;
let searchCard: ModelCard<EmbeddingPipeline> | null = null;
let searchBegun = false;

const look = new Look((error) => lookCard?.failed(error));
const search = new Search((error) => searchCard?.failed(error));
const bench = new Bench(() => look.pipe);

void begin();

async function begin(): Promise<void> {
  wireTabs();
  wireDrops();
  const catalogue = await fetchCatalogue();
  const talker = offer(catalogue, "fastvlm", asked.get("model"));
  const finder = offer(catalogue, "mobileclip", asked.get("search"));
  if (talker === null) nothingHere("look-model", "FastVLM");
  else {
    lookCard = new ModelCard(byId("look-model"), {
      ...talker,
      device,
      load: (options) => pipeline("image-text-to-text", talker.url, options),
      ready: (pipe, why) => {
        look.ready(pipe, why);
        void bench.show();
      },
    });
    void lookCard.start();
  }
  if (finder === null) nothingHere("search-model", "MobileCLIP");
  else {
    searchCard = new ModelCard(byId("search-model"), {
      ...finder,
      device,
      load: (options) => pipeline("image-feature-extraction", finder.url, options),
      ready: (pipe) => search.ready(pipe),
    });
  }
  show(TABS.find((tab) => location.hash === `#${tab}`) ?? "look");
}

async function fetchCatalogue(): Promise<Catalogue> {
  try {
    const response = await fetch("./models/index.json", { cache: "no-cache" });
    if (response.ok) return (await response.json()) as Catalogue;
  } catch {
    // Without a catalogue, or offline, the address may still name a model.
  }
  return { models: [] };
}

/** The model that the address names, or the first of its kind. */
function offer(catalogue: Catalogue, kind: "fastvlm" | "mobileclip", wish: string | null): Offer | null {
  const of = (folder: string, name = folder): Offer => ({ name, url: new URL(`./models/${encodeURIComponent(folder)}/`, document.baseURI).href });
  const found = catalogue.models.find((model) => (wish === null ? model.kind === kind : model.folder === wish));
  if (found !== undefined) return of(found.folder, found.name);
  return wish === null ? null : of(wish);
}

function nothingHere(place: string, family: string): void {
  const card = byId(place);
  card.hidden = false;
  card.replaceChildren(
    make("h2", {}, `There is no ${family} model here`),
    make("p", {}, `Whoever hosts this page puts one into models/, with "ocelli web export", or names its folder in the address: ?${place === "look-model" ? "model" : "search"}=NAME.`),
  );
}

function wireTabs(): void {
  for (const [i, tab] of TABS.entries()) {
    const control = byId(`tab-${tab}`);
    control.addEventListener("click", () => show(tab));
    control.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -i, End: TABS.length - 1 - i }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const next = TABS[(i + step + TABS.length) % TABS.length]!;
      show(next);
      byId(`tab-${next}`).focus();
    });
  }
}

function show(shown: Tab): void {
  for (const tab of TABS) {
    const selected = tab === shown;
    byId(tab).hidden = !selected;
    const control = byId(`tab-${tab}`);
    control.ariaSelected = String(selected);
    control.tabIndex = selected ? 0 : -1;
  }
  if (shown === "bench") void bench.show();
  if (shown === "search" && !searchBegun && searchCard !== null) {
    // Two models at once are a lot; the second one comes when it is wanted.
    searchBegun = true;
    void searchCard.start();
  }
}

/** Pictures that are dropped or pasted go to the tab that is shown. */
function wireDrops(): void {
  const drop = byId("drop");
  const hasFiles = (event: DragEvent): boolean => event.dataTransfer?.types.includes("Files") ?? false;
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    drop.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) drop.hidden = true;
  });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    drop.hidden = true;
    take([...event.dataTransfer!.files]);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length > 0) take(files);
  });
}

function take(files: File[]): void {
  if (!byId("search").hidden) search.add(files);
  else if (!byId("look").hidden && files[0] !== undefined) void look.open(files[0]);
}
