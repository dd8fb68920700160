/* The page of the comic library. Its address holds the query, and /api/files answers it.
 *
 * While the list is being rebuilt, warmcache.js polls its status and calls show() again with the new list. At other
 * times it polls slowly, so that the page also shows marks made in other tabs or by other people. */
import { count, plural, render, renderSkeleton } from "./comics.js";

const LIST = "enriched_file_cache";
const DEFAULTS = { page: 1, per_page: 48, filter: "all", sort: "date", search: "", view: "grid" };
const DIRECTIONS = {
  name: "A to Z",
  "-name": "Z to A",
  date: "Newest first",
  "-date": "Oldest first",
  size: "Largest first",
  "-size": "Smallest first",
};
const TROUBLES = {
  offline: "You are offline; this list may be out of date.",
  stalled: "Reading the comics takes long, so this page has stopped checking. Try again to continue.",
};
const KEPT = 30_000; // ms for which a mark is shown although the list does not have it yet

const at = (id) => document.getElementById(id);
const views = { grid: at("grid"), table: at("rows") };
const templates = { grid: at("card"), table: at("row") };

let state = readAddress();
let running = null; // the current Warmcache.json() call, or null after it has ended
let shown = null; // the last answer
let posts = Promise.resolve(); // marks are sent one after another, so that the last press wins
const marked = new Map(); // path -> markers that were sent; they are shown until the list has them too

/* ---- the address ---- */

function readAddress() {
  const query = new URLSearchParams(location.search);
  const one = (name, allowed) => (allowed.includes(query.get(name)) ? query.get(name) : DEFAULTS[name]);
  const page = Number(query.get("page"));
  return {
    page: Number.isSafeInteger(page) && page > 0 ? page : DEFAULTS.page,
    per_page: Number(one("per_page", ["24", "48", "96", "192"])),
    filter: one("filter", ["all", "marked", "unmarked", "duplicates"]),
    sort: one("sort", Object.keys(DIRECTIONS)),
    search: wordsOf(query.get("search") || "").join(" "),
    view: one("view", ["grid", "table"]),
  };
}

/** Return what the API searches for: at most five words, and a hundred characters as it counts them. */
function wordsOf(text) {
  const characters = [...text.normalize()].slice(0, 100).join("");
  return characters.split(/[\s\x1c-\x1f\x85]+/).filter(Boolean).slice(0, 5);
}

function address(changes) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...state, ...changes })) {
    if (value !== DEFAULTS[name]) query.set(name, value);
  }
  return query.size ? `/?${query}` : "/";
}

/** Change the query: update the address and load the list. */
function go(changes, { replace = false } = {}) {
  const next = { page: 1, ...changes };
  if (replace) history.replaceState(null, "", address(next));
  else history.pushState(null, "", address(next));
  state = { ...state, ...next };
  showControls();
  load();
}

/* ---- fetching ---- */

function load() {
  running?.stop();
  const { view, ...query } = state;
  if (query.filter === "all") delete query.filter;
  if (!query.search) delete query.search;
  if (!shown) renderSkeleton(views.grid, 24);
  const mine = Warmcache.json(`/api/files?${new URLSearchParams(query)}`, show, { name: LIST });
  running = mine;
  mine.done
    .catch((error) => {
      if (running === mine) showError(`The list could not be fetched: ${error.message}.`, "fetch");
    })
    .finally(() => {
      if (running === mine) running = null;
    });
}

/** Load the list after somebody has changed it, unless this page shows that list or is already waiting for it. */
function follow({ generation }) {
  if (running || generation === shown?.generation) return false;
  load();
  return true;
}

async function refresh() {
  // Use a separate request: load() repeats its own after the rebuild, which must not start another rebuild.
  try {
    const response = await fetch("/api/files?per_page=1&refresh=true");
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    announce("Looking through the folder again");
    load();
  } catch (error) {
    showError(`The list was not refreshed: ${error.message}.`, "fetch");
  }
}

function mark(path, name, value) {
  marked.set(path, { markers: { ...marked.get(path)?.markers, [name]: value }, sent: Date.now() });
  showComics();
  posts = posts.then(() => sendMark(path, name, value));
}

async function sendMark(path, name, value) {
  try {
    const response = await fetch("/api/files/mark", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ paths: [path], [name]: value }),
    });
    if (!response.ok) {
      const answer = await response.json().catch(() => ({}));
      throw new Error(answer.error || `the server answered ${response.status}`);
    }
    announce(`${value ? "Marked" : "No longer marked"} as ${name}`);
    load();
  } catch (error) {
    marked.delete(path);
    showComics();
    showError(`Not marked: ${error.message}`, "mark");
  }
}

/* ---- showing ---- */

function show(data, { rebuilding, generation }) {
  hideError("fetch");
  if (!data.files.length && data.total_files && state.page > data.total_pages) {
    go({ page: data.total_pages }, { replace: true }); // there are fewer comics now, and this page is gone
    return;
  }
  const first = !shown;
  shown = { data, rebuilding, generation };
  showComics();
  showCounts();
  showPages();
  if (rebuilding && at("rebuild").hidden) showProgress({});
  at("rebuild").hidden = !rebuilding;
  if (first && !rebuilding) announce(at("total").textContent);
}

function showComics() {
  if (!shown) return;
  const { data, rebuilding } = shown;
  const waiting = rebuilding && !data.files.length && !state.search;
  for (const [name, container] of Object.entries(views)) {
    if (name === state.view) render(container, templates[name], data.files.map(withMarks));
    else container.replaceChildren();
  }
  if (waiting) renderSkeleton(views.grid, 24);
  views.grid.hidden = state.view !== "grid" && !waiting;
  at("table").hidden = state.view !== "table" || !data.files.length;
  at("comics").setAttribute("aria-busy", String(waiting));
  at("nothing").hidden = waiting || data.files.length > 0;
  if (!at("nothing").hidden) explainNothing(rebuilding);
}

/** Return a comic with the marks made on this page, which the list may not have yet. */
function withMarks(comic) {
  const mine = marked.get(comic.path);
  if (!mine) return comic;
  const agrees = Object.entries(mine.markers).every(([name, value]) => comic[name] === value);
  if (agrees || Date.now() - mine.sent > KEPT) {
    marked.delete(comic.path);
    return comic;
  }
  return { ...comic, ...mine.markers };
}

function showCounts() {
  const { data } = shown;
  const all = data.marked_count + data.unmarked_count;
  const isKnown = all > 0 || !shown.rebuilding; // "0 comics" would be wrong during the first rebuild
  const counts = {
    all,
    marked: data.marked_count,
    unmarked: data.unmarked_count,
    duplicates: data.duplicates_count,
  };
  for (const chip of at("filters").children) {
    const number = counts[chip.dataset.filter];
    chip.querySelector(".count").textContent = isKnown ? count(number) : "";
  }
  let total = plural(data.total_files);
  if (state.search) total += data.search_complete === false ? " found so far: the search took too long" : " found";
  at("total").textContent = isKnown ? total : "";
}

function showPages() {
  const { page, total_pages: last } = shown.data;
  const hadFocus = at("pages").contains(document.activeElement);
  at("paging").hidden = shown.data.total_files === 0;
  const numbers = [...new Set([1, page - 1, page, page + 1, last])].filter((n) => n >= 1 && n <= last);
  const links = [pageLink("Back", page - 1, last)];
  numbers.sort((a, b) => a - b).forEach((number, place) => {
    if (place && number - numbers[place - 1] > 1) links.push(gap());
    links.push(pageLink(count(number), number, last));
  });
  links.push(pageLink("Next", page + 1, last));
  at("pages").replaceChildren(...links);
  if (hadFocus) at("pages").querySelector("[aria-current]")?.focus({ preventScroll: true });
}

function pageLink(text, number, last) {
  const link = document.createElement("a");
  link.textContent = text;
  if (number < 1 || number > last) {
    link.setAttribute("aria-disabled", "true");
    return link;
  }
  link.href = address({ page: number });
  link.dataset.page = number;
  if (text === count(number)) link.setAttribute("aria-label", `Page ${text}`);
  if (number === shown.data.page && text === count(number)) link.setAttribute("aria-current", "page");
  return link;
}

function gap() {
  const dots = document.createElement("span");
  dots.textContent = "…";
  return dots;
}

function showControls() {
  const bare = state.sort.replace("-", "");
  if (document.activeElement !== at("search")) at("search").value = state.search;
  at("sort").value = bare;
  at("per-page").value = String(state.per_page);
  at("direction").textContent = DIRECTIONS[state.sort];
  for (const chip of at("filters").children) press(chip, chip.dataset.filter === state.filter);
  for (const button of at("views").children) press(button, button.dataset.view === state.view);
  for (const head of document.querySelectorAll("th[data-sort]")) {
    const down = state.sort.startsWith("-") === (bare === "name"); // dates and sizes start with the largest
    if (head.dataset.sort === bare) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  press(at("theme"), isDark());
}

function press(button, pressed) {
  button.setAttribute("aria-pressed", String(pressed));
}

async function explainNothing(rebuilding) {
  const narrowed = state.search || state.filter !== "all";
  const text = at("nothing").querySelector("p");
  at("show-all").hidden = !narrowed;
  text.textContent = narrowed ? "No comics match." : "There are no comics here yet.";
  if (narrowed || rebuilding) return;
  try {
    const status = await (await fetch(`/api/cache/stats/${LIST}`)).json();
    if (status.state === "failed") text.textContent = `The folder could not be read (${status.last_error}).`;
  } catch {
    // Keep the text set above.
  }
}

/* ---- messages ---- */

/** Announce a text to users of screen readers. */
function announce(text) {
  at("announcement").textContent = text;
}

function showError(text, kind) {
  at("error").dataset.kind = kind;
  at("error").querySelector("p").textContent = text;
  at("error").hidden = false;
  if (!shown) views.grid.replaceChildren(); // the grey shapes would promise comics
}

function hideError(kind) {
  if (!kind || at("error").dataset.kind === kind) at("error").hidden = true;
}

let quarter = 0;

function showProgress({ phase, done, total, ratio, eta }) {
  const bar = at("progress");
  if (ratio === null || ratio === undefined) bar.removeAttribute("value");
  else bar.value = ratio;
  let text = "Looking for comics";
  if (/views|publish/.test(phase)) text = "Putting the list in order";
  else if (total && done < total) {
    text = `Reading ${count(done)} of ${count(total)} comics`;
    if (Number.isFinite(eta) && eta >= 1) text += `, about ${left(eta)} left`;
  } else if (total) text = "Putting the list in order";
  else if (done) text = `Found ${plural(done)}`;
  at("doing").textContent = text;
  const now = Math.floor((ratio || 0) * 4);
  if (now > quarter) announce(text);
  quarter = now;
}

function left(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}

/* ---- events of people and of the poller ---- */

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function toggleTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  press(at("theme"), theme === "dark");
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // The theme is shown, but not remembered.
  }
}

function reverse(sort) {
  return sort.startsWith("-") ? sort.slice(1) : `-${sort}`;
}

function onClick(id, selector, act) {
  at(id).addEventListener("click", (event) => {
    const target = event.target.closest(selector);
    if (target) act(target, event);
  });
}

function listen() {
  let typing;
  const search = () => {
    clearTimeout(typing);
    const text = wordsOf(at("search").value).join(" ");
    if (text !== state.search) go({ search: text }, { replace: true });
  };
  at("search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, 250);
  });
  at("find").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest("input, select, textarea, [contenteditable]");
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || writing) return;
    event.preventDefault();
    at("search").focus();
    at("search").select();
  });

  onClick("filters", "[data-filter]", (chip) => go({ filter: chip.dataset.filter }));
  onClick("views", "[data-view]", (button) => {
    state.view = button.dataset.view;
    history.replaceState(null, "", address());
    showControls();
    showComics();
    if (shown) showPages(); // its links contain the view
  });
  onClick("table", "th[data-sort]", ({ dataset: { sort } }) =>
    go({ sort: state.sort === sort ? reverse(sort) : sort }),
  );
  onClick("pages", "[data-page]", (link, event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // the browser opens a new tab, as for any link
    event.preventDefault();
    go({ page: Number(link.dataset.page) });
    scrollTo({ top: 0 });
  });
  onClick("comics", "[data-mark]", (button) => {
    const { path } = button.closest("[data-path]").dataset;
    mark(path, button.dataset.mark, button.getAttribute("aria-pressed") !== "true");
  });
  at("sort").addEventListener("change", () => go({ sort: at("sort").value }));
  at("direction").addEventListener("click", () => go({ sort: reverse(state.sort) }));
  at("per-page").addEventListener("change", () => go({ per_page: Number(at("per-page").value) }));
  at("show-all").addEventListener("click", () => {
    at("search").value = "";
    go({ filter: "all", search: "" });
  });
  at("theme").addEventListener("click", toggleTheme);
  at("refresh").addEventListener("click", refresh);
  at("again").addEventListener("click", () => {
    hideError();
    load();
  });
  at("dismiss").addEventListener("click", () => hideError());
  addEventListener("popstate", () => {
    state = readAddress();
    at("search").value = state.search;
    showControls();
    load();
  });

  document.body.addEventListener("warmcache:progress", (event) => showProgress(event.detail));
  document.body.addEventListener("warmcache:error", ({ detail: { code, message } }) => {
    if (code === "rebuild") showError(`The folder could not be read (${message}).`, "state");
    else showError(`The list's status is not known: ${message}${/[.!]$/.test(message) ? "" : "."}`, "fetch");
  });
  document.body.addEventListener("warmcache:state", ({ detail: { to } }) => {
    if (TROUBLES[to]) showError(TROUBLES[to], "state");
    else if (to !== "failed") hideError("state");
  });
}

// Show errors on the page, because nobody looks at the console.
addEventListener("error", (event) => showError(`This page has an error: ${event.message}`, "script"));
addEventListener("unhandledrejection", (event) => showError(`This page has an error: ${event.reason}`, "script"));

showControls();
listen();
load();
Warmcache.watch(LIST, { refresh: follow });
