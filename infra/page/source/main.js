// Puts the parts together: state in, elements out, and the clock.
import { Catalog, address } from "./catalog.js";
import { firstUpload, remoteAdd, remoteName } from "./commands.js";
import { detail } from "./detail.js";
import { announce, byId, commandLine, h, icon, moment } from "./dom.js";
import { STATES, age, size, stateOf } from "./model.js";
import { DEFAULT_STALE_DAYS, FACETS, VALUE_NAMES, activeFilters, formatQuery, parseQuery, select } from "./query.js";
import { Table } from "./table.js";

/** @typedef {import("./query.js").Row} Row */

const REFRESH_MS = 30_000;
const REFRESH_AT_MOST_MS = 300_000;
const ARRIVAL_SHOWN_MS = 5_000;
const URL_DELAY_MS = 200;

const base = new URL(".", location.href).href;
const origin = base.replace(/\/$/, "");
const catalog = new Catalog(base);
const table = new Table(openProduct);
const narrow = matchMedia("(max-width: 999px)");

let query = parseQuery(location.search);
let remote = remembered("remote") || remoteName(location.hostname);
/** @type {Row[]} */
let rows = [];
/** @type {Map<string, number>} */
let claims = new Map();
/** @type {Set<string>} */
let fresh = new Set();
let detailShown = "";
let failures = 0;
let lastGood = 0;
let lastTry = 0;
let refreshing = false;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let refreshTimer;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let urlTimer;

/** @param {string} name @returns {string} */
function remembered(name) {
  try {
    return localStorage.getItem(name) ?? "";
  } catch {
    return ""; // Storage is switched off: the choice lasts as long as the page.
  }
}

/** @param {string} name @param {string} value */
function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // As above.
  }
}

// The catalog --------------------------------------------------------------------------------------------------------

/** Reads what changed, shows it, and plans the next reading, whatever the outcome. */
async function refresh() {
  if (refreshing) return;
  refreshing = true;
  lastTry = Date.now();
  try {
    const first = lastGood === 0;
    const before = newestByKey();
    const changed = await catalog.refresh();
    failures = catalog.problems.length > 0 ? failures + 1 : 0;
    if (failures === 0) lastGood = Date.now();
    if (changed || first) takeIn(before, first);
    else tick();
    showPulse();
    showProblems();
  } finally {
    refreshing = false;
    plan();
  }
}

/** Slower after each failure, so that not every open page asks a failing server twice a minute. */
const pause = () => Math.min(REFRESH_MS * 2 ** Math.max(0, failures - 1), REFRESH_AT_MOST_MS);

function plan() {
  clearTimeout(refreshTimer);
  if (document.visibilityState === "visible") refreshTimer = setTimeout(refresh, lastTry + pause() - Date.now());
}

/** @returns {Map<string, string>} */
const newestByKey = () => new Map(catalog.products().map((product) => [product.key, product.versions[0]?.name ?? ""]));

/** @param {Map<string, string>} before @param {boolean} first the first reading is not news */
function takeIn(before, first) {
  const products = catalog.products();
  claims = new Map();
  for (const alias of products.flatMap((product) => product.aliases)) claims.set(alias, (claims.get(alias) ?? 0) + 1);
  const news = first ? [] : products.filter(({ key, versions }) => before.get(key) !== (versions[0]?.name ?? ""));
  fresh = new Set(news.map(({ key }) => key));
  if (news.length > 0) announce(`New in the catalog: ${news.slice(0, 3).map(({ title }) => title).join(", ")}`);
  setTimeout(() => fresh.clear(), ARRIVAL_SHOWN_MS);
  judge();
  showTotals();
  show();
  if (rows.length > 0 && performance.getEntriesByName("first-row").length === 0) {
    requestAnimationFrame(() => setTimeout(() => performance.mark("first-row")));
  }
}

/** States depend on the clock and on the limit for "stale", not only on the catalog. */
function judge() {
  const now = Date.now();
  rows = catalog.products().map((product) => ({ product, state: stateOf(product, now, query.staleDays) }));
}

/** Keeps ages up to date while nothing else changes. */
function tick() {
  for (const element of document.querySelectorAll("time")) {
    element.textContent = age(Date.parse(element.dateTime), Date.now());
  }
}

// What is shown ------------------------------------------------------------------------------------------------------

function show() {
  const { shown, counts } = select(rows, query);
  table.show(shown, query, Date.now(), fresh);
  byId("empty").hidden = !catalog.empty;
  byId("list").hidden = rows.length === 0;
  showStates(counts.state);
  showFilters(counts);
  showSort();
  const filtered = query.search !== "" || Object.values(query.facets).some(Boolean);
  byId("clear").hidden = !filtered;
  const nothing = `Nothing matches ${activeFilters(query).join(", ")}.`;
  byId("matches").textContent = !filtered ? "" : shown.length === 0 ? nothing : `${shown.length} of ${plural(rows.length, "product")}`;
  showDetail();
}

/** @param {number} count @param {string} noun */
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** What the whole catalog holds, whatever is filtered. */
function showTotals() {
  const versions = rows.flatMap(({ product }) => product.versions);
  const newest = versions.reduce((latest, { when }) => Math.max(latest, when ?? 0), 0);
  const paths = new Map(versions.flatMap(({ files }) => files.map((file) => [file.path, file.sizeBytes])));
  const bytes = [...paths.values()].reduce((sum, each) => sum + each, 0);
  const facts = [plural(versions.length, "version"), size(bytes), plural(new Set(rows.map(({ product }) => product.stream)).size, "stream")];
  const unreached = lastGood === 0 && rows.length === 0 && !catalog.empty;
  byId("headline").textContent = catalog.empty ? "No image here yet" : unreached ? "Catalog unreachable" : plural(rows.length, "product");
  const feeds = [...new Set(rows.map(({ product }) => product.stream))].flatMap((stream, place) => [
    place === 0 ? "Feeds: " : ", ",
    h("a", { href: address(base, `streams/v1/${stream}.atom`), type: "application/atom+xml" }, stream),
  ]);
  const newer = newest > 0 ? ["Newest ", moment(newest, Date.now()), " · "] : [];
  byId("summary").replaceChildren(...newer, facts.join(" · "), h("span.feeds", {}, ...feeds));
  byId("summary").hidden = rows.length === 0;
}

/** @param {Map<string, number>} counts */
function showStates(counts) {
  const present = Object.keys(STATES).filter((state) => rows.some((row) => row.state === state) || query.facets.state === state);
  const segments = present.map((state) => {
    const segment = h(`i.${state}`);
    segment.style.flexGrow = String(rows.filter((row) => row.state === state).length);
    return segment;
  });
  byId("bar").replaceChildren(...segments);
  byId("bar").hidden = rows.length === 0;
  const focused = document.activeElement?.getAttribute("data-state");
  const buttons = present.map((state) =>
    h(
      `button.${state}`,
      { type: "button", "data-state": state, "aria-pressed": String(query.facets.state === state), click: () => toggleState(state) },
      icon(`i-${state}`),
      h("b", {}, (counts.get(state) ?? 0).toLocaleString("en")),
      STATES[/** @type {keyof STATES} */ (state)],
    ),
  );
  byId("states").replaceChildren(...buttons);
  buttons.find((button) => button.dataset.state === focused)?.focus();
}

/** @param {string} state */
function toggleState(state) {
  change({ facets: { ...query.facets, state: query.facets.state === state ? "" : state } });
}

/** @param {Record<string, Map<string, number>>} counts */
function showFilters(counts) {
  for (const [name, facet] of Object.entries(FACETS)) {
    if (name === "state") continue;
    const chosen = query.facets[name];
    const list = /** @type {HTMLSelectElement} */ (byId(`filter-${name}`));
    const values = new Set(rows.flatMap((row) => facet.of(row)));
    list.hidden = values.size < 2 && !chosen;
    list.classList.toggle("set", Boolean(chosen));
    const options = [...counts[name]].filter(([value]) => value);
    if (chosen && !counts[name].has(chosen)) options.push([chosen, 0]);
    options.sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
    // An open list must not change under the pointer.
    if (document.activeElement !== list || list.options.length === 0) {
      list.replaceChildren(h("option", { value: "" }, facet.any), ...options.map(([value, n]) => h("option", { value }, `${VALUE_NAMES.get(value) ?? value} (${n})`)));
    }
    list.value = chosen;
  }
}

function showSort() {
  for (const button of byId("table").querySelectorAll("[data-sort]")) {
    const header = button.closest("th");
    if (query.sort.replace("-", "") !== button.dataset.sort) header.removeAttribute("aria-sort");
    else header.setAttribute("aria-sort", query.sort.startsWith("-") ? "descending" : "ascending");
  }
}

function showDetail() {
  const row = rows.find(({ product }) => product.key === query.open);
  const shape = row ? JSON.stringify([row.product.key, row.product.raw, row.state, remote]) : "";
  const panel = byId("detail");
  document.body.classList.toggle("open", Boolean(row));
  byId("page").inert = Boolean(row) && narrow.matches;
  panel.hidden = !row;
  table.mark(query.open);
  if (!row || shape === detailShown) {
    detailShown = shape;
    return;
  }
  const same = byId("detail-body").dataset.key === row.product.key;
  const opened = same ? [...panel.querySelectorAll("details[open]")].map((each) => each.dataset.version) : [];
  byId("detail-body").dataset.key = row.product.key;
  byId("detail-title").textContent = row.product.title;
  byId("detail-where").textContent = [row.product.variant, row.product.arch].filter(Boolean).join(" · ");
  byId("detail-body").replaceChildren(...detail(row, { base, remote, now: Date.now(), claims, compared: catalog.compared }));
  for (const each of panel.querySelectorAll("details")) each.open = opened.includes(each.dataset.version);
  if (!same || detailShown === "") panel.scrollTop = 0;
  detailShown = shape;
}

function showPulse() {
  const clock = new Date(lastGood).toLocaleTimeString("en-GB");
  byId("pulse").className = `pulse ${failures > 0 ? "bad" : "good"}`;
  byId("pulse-text").textContent = failures === 0 ? `Live, checked at ${clock}` : lastGood ? `As of ${clock}` : "Not reached yet";
}

function showProblems() {
  const banner = byId("problems");
  banner.hidden = failures === 0;
  if (failures === 0) return;
  const kept = lastGood || rows.length > 0 ? "What was read before is still shown." : "Nothing was read before, so there is nothing to show.";
  const again = h("button.quiet", { type: "button", click: refresh }, "Try now");
  const reasons = catalog.problems.map((problem) => h("code", {}, problem));
  const seconds = Math.round(pause() / 1000);
  banner.replaceChildren(h("strong", {}, "The catalog could not be read."), ...reasons, h("span", {}, `${kept} The next try is in ${seconds} seconds.`), again);
}

function showCommands() {
  const commands = remoteAdd(remote, origin);
  byId("remote-add").replaceChildren(...commands.map((command) => commandLine(command, `the ${command.client} remote add command`)));
  for (const [name, step] of Object.entries(firstUpload(remote, Date.now()))) {
    byId(`empty-${name}`).replaceChildren(commandLine(step, `step: ${name}`));
  }
}

// What people do -----------------------------------------------------------------------------------------------------

/** @param {Partial<import("./query.js").Query>} part @param {boolean} page whether the back button should undo it */
function change(part, page = false) {
  const staleDays = query.staleDays;
  query = { ...query, ...part };
  if (query.staleDays !== staleDays) judge();
  show();
  // A new list is read from its top.
  if (!("open" in part) && byId("list").getBoundingClientRect().top < 0) byId("list").scrollIntoView();
  clearTimeout(urlTimer);
  const write = () => history[page ? "pushState" : "replaceState"](null, "", formatQuery(query) || location.pathname);
  // Browsers limit how often an address may change; typing can be faster.
  if (page) write();
  else urlTimer = setTimeout(write, URL_DELAY_MS);
}

/** @param {string} key @param {() => void} act may change the height of what is above the list; the row stays where it was */
function holding(key, act) {
  const before = table.top(key);
  act();
  const after = table.top(key);
  if (before !== undefined && after !== undefined) scrollBy({ top: after - before, behavior: "instant" });
}

/** @param {string} key */
function openProduct(key) {
  holding(key, () => change({ open: key }, true));
  byId("detail-title").focus({ preventScroll: true });
}

function closeProduct() {
  const key = query.open;
  if (!key) return;
  holding(key, () => change({ open: "" }, true));
  table.focus(key);
}

function follow() {
  query = parseQuery(location.search);
  showControls();
  judge();
  show();
}

function showControls() {
  byId("search").value = query.search;
  const list = byId("stale");
  if (![...list.options].some((option) => option.value === String(query.staleDays))) {
    list.append(h("option", { value: query.staleDays }, `Stale after ${plural(query.staleDays, "day")}`));
  }
  list.value = String(query.staleDays);
}

function clearAll() {
  change({ search: "", facets: parseQuery("").facets });
  byId("search").value = "";
  byId("search").focus();
}

/** @param {KeyboardEvent} event */
function pressed(event) {
  const typing = /** @type {Element} */ (event.target).matches("input, select, textarea");
  if (event.key === "Escape") {
    if (query.open) closeProduct();
    else if (event.target === byId("search")) clearAll();
  } else if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    byId("search").select();
    byId("search").focus();
  } else if (event.key === "ArrowDown" && event.target === byId("search") && table.rows.length > 0) {
    event.preventDefault();
    table.reveal(0);
  }
}

/** @param {string} theme "" follows the system */
function useTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  byId("theme-text").textContent = theme === "dark" ? "Dark" : theme === "light" ? "Light" : "Auto";
  byId("theme").setAttribute("aria-label", `Colours: ${theme || "as the system"}. Change`);
}

function nextTheme() {
  const order = ["", "light", "dark"];
  const theme = order[(order.indexOf(remembered("theme")) + 1) % order.length];
  remember("theme", theme);
  useTheme(theme);
}

function addFilters() {
  for (const [name, { label }] of Object.entries(FACETS)) {
    if (name === "state") continue;
    const list = h("select", { id: `filter-${name}`, "aria-label": label, hidden: true });
    list.addEventListener("change", () => change({ facets: { ...query.facets, [name]: /** @type {any} */ (list).value } }));
    byId("stale").before(list);
  }
}

function listen() {
  byId("search").addEventListener("input", () => change({ search: byId("search").value }));
  byId("stale").addEventListener("change", () => change({ staleDays: Number(byId("stale").value) || DEFAULT_STALE_DAYS }));
  byId("clear").addEventListener("click", clearAll);
  byId("theme").addEventListener("click", nextTheme);
  byId("detail-close").addEventListener("click", closeProduct);
  byId("remote").addEventListener("input", () => {
    remote = byId("remote").value.trim() || remoteName(location.hostname);
    remember("remote", remote);
    showCommands();
    showDetail();
  });
  byId("filters-toggle").addEventListener("click", () => {
    const open = byId("filters").classList.toggle("shown");
    byId("filters-toggle").setAttribute("aria-expanded", String(open));
  });
  for (const button of byId("table").querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => sortBy(button.dataset.sort));
  }
  addEventListener("keydown", pressed);
  addEventListener("popstate", follow);
  narrow.addEventListener("change", showDetail);
  document.addEventListener("visibilitychange", plan);
}

/** @param {string} column a second press turns the order round; times and sizes start with the largest */
function sortBy(column) {
  const start = ["newest", "size", "state"].includes(column) ? `-${column}` : column;
  const other = start.startsWith("-") ? column : `-${column}`;
  change({ sort: query.sort === start ? other : start });
}

byId("host").textContent = location.host;
document.title = `Images on ${location.host}`;
byId("remote").value = remote;
useTheme(remembered("theme"));
addFilters();
showControls();
showCommands();
listen();
refresh();
