// The search page. One search is shown at a time; what it is stands in the address, so that going back works. Only
// a picture that was dropped has no place there: it is remembered beside the history entry.

const $ = (id) => document.getElementById(id);
const FILTERS = ["since", "until", "camera", "path", "near"];
const LARGEST = 64 * 1024 * 1024; // as the server's MAX_PICTURE_BYTES
const PAGE = 200; // pictures asked for at once; the server's MOST is 1000
const MOST = 1000;
const DEFAULT_SCORE = 0.8;

/** Dropped pictures by history entry: {file, url}. */
const pictures = new Map();
/** What is shown: pictures of every score, nearest first; the slider only hides. */
let results = null;
let asked = PAGE;
let running = null;
/** Place of the open picture among the visible ones. */
let open = -1;

// ---- from the page to a search and back

function searchOfPage() {
  const search = { q: $("q").value.trim(), like: "", picture: "" };
  for (const name of FILTERS) search[name] = $(name).value.trim();
  return search;
}

function searchOfAddress() {
  const given = new URLSearchParams(location.search);
  const search = { q: given.get("q") ?? "", like: given.get("like") ?? "", picture: history.state?.picture ?? "" };
  for (const name of FILTERS) search[name] = given.get(name) ?? "";
  return search;
}

function addressOf(search) {
  const given = new URLSearchParams();
  for (const name of ["q", "like", ...FILTERS]) if (search[name]) given.set(name, search[name]);
  const text = given.toString();
  return text ? `/?${text}` : "/";
}

function showSearch(search) {
  $("q").value = search.q;
  for (const name of FILTERS) {
    if (name === "camera") offerCamera(search.camera);
    $(name).value = search[name];
  }
  const count = FILTERS.filter((name) => search[name]).length;
  $("filter-count").textContent = count ? ` (${count})` : "";
  const picture = pictures.get(search.picture);
  $("picked").hidden = !picture && !search.like;
  $("q").placeholder = $("picked").hidden ? "dog on a beach, or drop a picture" : "";
  if (picture) {
    $("picked-image").src = picture.url;
    $("picked-name").textContent = picture.file.name || "picture";
  } else if (search.like) {
    $("picked-image").src = `/thumb/${encodeURIComponent(search.like)}`;
    $("picked-name").textContent = "like this";
  }
  document.title = search.q ? `${search.q} · Ocelli` : "Ocelli photo search";
}

/** Go to a search: a new history entry, unless it is the one that is shown. */
function go(search) {
  const state = search.picture ? { picture: search.picture } : {};
  const same = addressOf(search) === location.pathname + location.search
    && (history.state?.picture ?? "") === search.picture;
  if (!same) history.pushState(state, "", addressOf(search));
  asked = PAGE;
  run(search);
}

// ---- asking

async function run(search) {
  showSearch(search);
  running?.abort();
  const mine = running = new AbortController();
  trouble("");
  if (!search.q && !search.like && !search.picture) return showWelcome();
  $("welcome").hidden = true;
  const slow = setTimeout(() => status("Searching…"), 200);
  document.body.setAttribute("aria-busy", "true");
  try {
    const got = await ask(search, mine.signal);
    if (mine !== running) return;
    results = got;
    showResults();
  } catch (error) {
    if (mine !== running) return;
    results = null;
    clear();
    trouble(error.message);
  } finally {
    clearTimeout(slow);
    if (mine === running) document.body.removeAttribute("aria-busy");
  }
}

async function ask(search, signal) {
  const given = new URLSearchParams({ n: asked, min_score: 0 });
  for (const name of FILTERS) if (search[name]) given.set(name, search[name]);
  if (search.picture) {
    const picture = pictures.get(search.picture);
    if (!picture) throw new Error("The page was loaded anew: drop the picture again.");
    return json(await reach(`/api/search?${given}`, { method: "POST", body: picture.file, signal }));
  }
  if (search.like) return json(await reach(`/api/similar/${encodeURIComponent(search.like)}?${given}`, { signal }));
  given.set("q", search.q);
  return json(await reach(`/api/search?${given}`, { signal }));
}

async function reach(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("ocelli does not answer: start `ocelli search --web` again.");
  }
}

async function json(response) {
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `The server answered ${response.status}.`);
  return answer;
}

// ---- showing

function visible() {
  const floor = Number($("min-score").value);
  // A score may be a hair below the number that is shown for it.
  return results ? results.found.filter((found) => found.score >= floor - 1e-6) : [];
}

function clear() {
  $("found").replaceChildren();
  $("more").hidden = $("nothing").hidden = true;
  status("");
}

function showWelcome() {
  results = null;
  clear();
  document.body.removeAttribute("aria-busy");
  $("welcome").hidden = false;
}

function showResults() {
  const shown = visible();
  $("found").replaceChildren(...shown.map(tile));
  const took = Math.round(results.embed_ms + results.search_ms);
  status(`${counted(shown.length, "picture")} of ${counted(results.searched, "searched")} (${took} ms)`);
  $("more").hidden = !(shown.length >= asked && asked < MOST);
  $("nothing").hidden = shown.length > 0;
  if (shown.length === 0) showNothing();
}

function showNothing() {
  const none = results.found.length === 0;
  $("nothing-why").textContent = results.searched === 0
    ? "No picture passes the filters, or the index is empty."
    : `The nearest picture scores ${shortScore(results.best_score)}, below ${shortScore($("min-score").value)}.`;
  $("weaker").hidden = none;
}

function tile(found, place) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tile";
  button.dataset.id = found.id;
  const name = nameOf(found.path);
  const known = [found.captured_at, found.camera].filter(Boolean).join(", ");
  button.setAttribute("aria-label", `${name}, score ${shortScore(found.score)}${known ? `, ${known}` : ""}`);
  button.title = found.path;
  const image = new Image();
  image.loading = place < 12 ? "eager" : "lazy";
  image.alt = "";
  image.src = `/thumb/${found.id}`;
  image.onerror = () => image.replaceWith("cannot be read");
  button.append(element("span", "image", image), element("span", "line",
    element("span", "name", name), element("span", "number", shortScore(found.score))));
  button.onclick = () => showDetails(place);
  item.append(button);
  return item;
}

function element(kind, name, ...content) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  made.append(...content);
  return made;
}

function status(text) {
  $("status").textContent = text;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

const counted = (count, what) =>
  `${count.toLocaleString("en")} ${what}${what === "picture" && count !== 1 ? "s" : ""}`;
const nameOf = (path) => path.split(/[\\/]/).pop();
// Never rounded up: 1.00 is certain.
const shortScore = (score) => (Math.floor(Number(score) * 100 + 1e-4) / 100).toFixed(2);

// ---- the details of a picture

async function showDetails(place) {
  const shown = visible();
  if (place < 0 || place >= shown.length) return;
  open = place;
  const found = shown[place];
  $("details-name").textContent = nameOf(found.path);
  $("details-gone").hidden = true;
  const image = $("details-image");
  image.hidden = false;
  image.alt = nameOf(found.path);
  image.src = `/file/${found.id}`;
  $("original").href = `/file/${found.id}`;
  $("previous").disabled = place === 0;
  $("next").disabled = place === shown.length - 1;
  listDetails(found, null);
  if (!$("details").open) $("details").showModal();
  const still = () => open === place && visible()[place]?.id === found.id;
  try {
    const picture = await json(await reach(`/api/picture/${found.id}`));
    if (still()) listDetails(found, picture);
  } catch (error) {
    if (still()) showGone(error.message);
  }
}

function listDetails(found, picture) {
  const rows = [
    ["Score", shortScore(found.score)],
    ["Taken", found.captured_at],
    ["Camera", found.camera],
    ["Size", found.width && `${found.width} × ${found.height}${megabytes(picture?.file_bytes)}`],
    ["Place", found.gps && coordinates(found.gps)],
    [found.files.length > 1 ? "Files" : "File", found.files],
  ];
  const list = [];
  for (const [name, value] of rows) {
    if (!value) continue;
    const texts = Array.isArray(value) ? value.map((path) => element("code", "", path)) : [value];
    list.push(element("dt", "", name), element("dd", "", ...texts));
  }
  $("details-list").replaceChildren(...list);
}

function megabytes(bytes) {
  if (!bytes) return "";
  return bytes < 1e6 ? `, ${Math.ceil(bytes / 1e3)} kB` : `, ${(bytes / 1e6).toFixed(1)} MB`;
}

function coordinates([latitude, longitude]) {
  const degrees = (value, ends) => `${Math.abs(value).toFixed(5)}° ${value < 0 ? ends[1] : ends[0]}`;
  return `${degrees(latitude, "NS")}, ${degrees(longitude, "EW")}`;
}

function showGone(reason) {
  $("details-image").hidden = true;
  $("details-reason").textContent = reason;
  $("details-gone").hidden = false;
}

async function explainGone() {
  const mine = open;
  const response = await fetch($("original").href).catch(() => null);
  const answer = await response?.json().catch(() => ({})) ?? {};
  if (open === mine) showGone(answer.error ?? "this browser cannot show it");
}

function closed() {
  const found = visible()[open];
  open = -1;
  $("details-image").removeAttribute("src");
  if (found) document.querySelector(`[data-id="${found.id}"]`)?.focus();
}

// ---- pictures to search with

function searchPicture(file) {
  if (file.size > LARGEST) return trouble("The picture's file has more than 64 MB: search with a smaller copy of it.");
  const key = crypto.randomUUID();
  pictures.set(key, { file, url: URL.createObjectURL(file) });
  if ($("details").open) $("details").close();
  go({ ...searchOfPage(), q: "", picture: key });
}

const firstPicture = (files) => [...files].find((file) => file.type.startsWith("image/")) ?? files[0];
const dragsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

function listenToDrops() {
  addEventListener("dragover", (event) => {
    if (!dragsFile(event)) return;
    event.preventDefault();
    $("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").hidden = true;
  });
  addEventListener("drop", (event) => {
    $("drop").hidden = true;
    if (!dragsFile(event)) return;
    event.preventDefault();
    const file = firstPicture(event.dataTransfer.files);
    if (file) searchPicture(file);
  });
  addEventListener("paste", (event) => {
    const file = firstPicture(event.clipboardData?.files ?? []);
    if (!file) return;
    event.preventDefault();
    searchPicture(file);
  });
  $("choose").onclick = () => $("file").click();
  $("file").onchange = () => {
    const file = $("file").files[0];
    if (file) searchPicture(file);
    $("file").value = "";
  };
}

// ---- keys

/** Arrow keys walk over the tiles, as they lie on the page. */
function walk(event) {
  const tiles = [...document.querySelectorAll(".tile")];
  const at = tiles.indexOf(document.activeElement);
  if (at < 0) {
    if (event.key === "ArrowDown" && document.activeElement === $("q") && tiles.length) {
      event.preventDefault();
      tiles[0].focus();
    }
    return;
  }
  const top = tiles[0].getBoundingClientRect().top;
  const columns = tiles.filter((tile) => Math.abs(tile.getBoundingClientRect().top - top) < 2).length;
  const steps = {
    ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns,
    Home: 0, End: tiles.length - 1,
  };
  if (!(event.key in steps)) return;
  event.preventDefault();
  if (event.key === "ArrowUp" && at < columns) $("q").focus();
  else tiles[Math.min(Math.max(steps[event.key], 0), tiles.length - 1)].focus();
}

function keys(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if ($("details").open) {
    if (event.key === "ArrowLeft") showDetails(open - 1);
    else if (event.key === "ArrowRight") showDetails(open + 1);
    else return;
    event.preventDefault();
  } else if (event.key === "/" && !/INPUT|SELECT/.test(document.activeElement?.tagName)) {
    event.preventDefault();
    $("q").select();
  } else {
    walk(event);
  }
}

// ---- the rest of the form

function setScore(score) {
  $("min-score").value = score;
  $("min-score-text").textContent = Number($("min-score").value).toFixed(2);
  if (results) showResults();
}

/** Down to the twentieth, so that there is something to look at. */
function showWeaker() {
  const { score } = results.found[Math.min(results.found.length, 20) - 1];
  setScore(Math.floor(score * 100) / 100);
  document.querySelector(".tile")?.focus();
}

/** A camera of the address that the index does not list is offered all the same. */
function offerCamera(name) {
  const select = $("camera");
  if (name && ![...select.options].some((option) => option.value === name)) select.add(new Option(name, name));
}

async function loadStats() {
  try {
    const stats = await json(await reach("/api/stats"));
    for (const { name, pictures } of stats.cameras) {
      const known = [...$("camera").options].find((option) => option.value === name);
      if (known) known.text = `${name} (${pictures})`;
      else $("camera").add(new Option(`${name} (${pictures})`, name));
    }
    const span = stats.first ? `, from ${stats.first.slice(0, 10)} to ${stats.last.slice(0, 10)}` : "";
    $("welcome-count").textContent = `${counted(stats.pictures, "picture")}${span}`;
  } catch (error) {
    trouble(error.message);
  }
}

/** Filters count for what is shown now, also when that is a picture. */
function goWithFilters() {
  const { q, like, picture } = searchOfAddress();
  go({ ...searchOfPage(), q: like || picture ? "" : $("q").value.trim() || q, like, picture });
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  const search = searchOfPage();
  if (!search.q && (searchOfAddress().like || searchOfAddress().picture)) goWithFilters();
  else go(search);
};
for (const name of FILTERS) $(name).onchange = goWithFilters;
$("clear").onclick = () => {
  for (const name of FILTERS) $(name).value = "";
  goWithFilters();
};
$("unpick").onclick = () => {
  go(searchOfPage());
  $("q").focus();
};
$("min-score").oninput = () => setScore($("min-score").value);
$("weaker").onclick = showWeaker;
$("more").onclick = () => {
  asked = Math.min(asked + PAGE, MOST);
  run(searchOfAddress());
};
for (const example of document.querySelectorAll(".example")) {
  example.onclick = () => go({ ...searchOfPage(), q: example.textContent });
}
$("previous").onclick = () => showDetails(open - 1);
$("next").onclick = () => showDetails(open + 1);
$("close").onclick = () => $("details").close();
$("details").onclose = closed;
$("details").onclick = (event) => { if (event.target === $("details")) $("details").close(); };
$("details-image").onerror = () => { if (open >= 0) explainGone(); };
$("similar").onclick = () => {
  const found = visible()[open];
  $("details").close();
  go({ ...searchOfPage(), q: "", like: String(found.id) });
};
addEventListener("keydown", keys);
addEventListener("popstate", () => {
  if ($("details").open) $("details").close();
  asked = PAGE;
  run(searchOfAddress());
});
listenToDrops();
setScore(DEFAULT_SCORE);
loadStats();
run(searchOfAddress());
