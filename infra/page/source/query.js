// The query over the catalog, and its form in the address bar. Pure.
import { STATES } from "./model.js";

/**
 * @typedef {import("./model.js").Product} Product
 * @typedef {import("./model.js").State} State
 * @typedef {{product: Product, state: State}} Row
 * @typedef {{search: string, facets: Record<string, string>, sort: string, staleDays: number, open: string}} Query
 *   sort is a column, with "-" before it for descending; open is the key of the product shown in full
 */

/** @type {Record<string, {label: string, any: string, of: (row: Row) => string[]}>} */
export const FACETS = {
  os: { label: "Operating system", any: "Any system", of: ({ product }) => [product.os] },
  release: { label: "Release", any: "Any release", of: ({ product }) => [product.release] },
  arch: { label: "Architecture", any: "Any architecture", of: ({ product }) => [product.arch] },
  variant: { label: "Variant", any: "Any variant", of: ({ product }) => [product.variant] },
  kind: { label: "Kind", any: "Any kind", of: ({ product }) => product.kinds },
  stream: { label: "Stream", any: "Any stream", of: ({ product }) => [product.stream] },
  state: { label: "State", any: "Any state", of: ({ state }) => [state] },
};

/** Values that read better with a name. A map: a value may be called "constructor". */
export const VALUE_NAMES = new Map(Object.entries({ container: "Container", vm: "Virtual machine", ...STATES }));

export const DEFAULT_SORT = "-newest";
export const DEFAULT_STALE_DAYS = 30;

/** @param {string} search the part of an address from "?" @returns {Query} */
export function parseQuery(search) {
  const given = new URLSearchParams(search);
  /** @type {Record<string, string>} */
  const facets = {};
  for (const name of Object.keys(FACETS)) facets[name] = given.get(name) ?? "";
  const sort = given.get("sort") ?? "";
  const stale = Number(given.get("stale"));
  return {
    search: given.get("q") ?? "",
    facets,
    sort: Object.hasOwn(SORTS, sort.replace("-", "")) ? sort : DEFAULT_SORT,
    staleDays: Number.isInteger(stale) && stale > 0 ? stale : DEFAULT_STALE_DAYS,
    open: given.get("product") ?? "",
  };
}

/** @param {Query} query @returns {string} "" or "?…"; defaults are left out */
export function formatQuery(query) {
  const out = new URLSearchParams();
  if (query.search) out.set("q", query.search);
  for (const [name, value] of Object.entries(query.facets)) if (value) out.set(name, value);
  if (query.sort !== DEFAULT_SORT) out.set("sort", query.sort);
  if (query.staleDays !== DEFAULT_STALE_DAYS) out.set("stale", String(query.staleDays));
  if (query.open) out.set("product", query.open);
  const written = out.toString().replaceAll("%3A", ":").replaceAll("%2F", "/");
  return written && `?${written}`;
}

/** @param {string} word in lower case @returns {string} without the remote's name, with which clients write an image */
const withoutRemote = (word) => word.replace(/^[^/:]+:(?=[^:]+$)/, "");

/** @param {string} haystack @param {string} word */
const has = (haystack, word) => haystack.includes(word) || haystack.includes(withoutRemote(word));

/**
 * The rows that pass, and for each facet how many rows each of its values would leave.
 * One pass: a row that fails exactly one facet still counts for that facet.
 * @param {Row[]} rows @param {Query} query
 * @returns {{shown: Row[], counts: Record<string, Map<string, number>>}}
 */
export function select(rows, query) {
  const words = query.search.toLowerCase().split(/\s+/).filter(Boolean);
  const names = Object.keys(FACETS);
  const counts = Object.fromEntries(names.map((name) => [name, /** @type {Map<string, number>} */ (new Map())]));
  /** @type {Row[]} */
  const shown = [];
  for (const row of rows) {
    if (!words.every((word) => has(row.product.haystack, word))) continue;
    const failed = names.filter((name) => query.facets[name] && !FACETS[name].of(row).includes(query.facets[name]));
    if (failed.length === 0) shown.push(row);
    for (const name of failed.length === 0 ? names : failed.length === 1 ? failed : []) {
      for (const value of FACETS[name].of(row)) counts[name].set(value, (counts[name].get(value) ?? 0) + 1);
    }
  }
  return { shown: sortRows(shown, query.sort), counts };
}

const COLLATOR = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const STATE_ORDER = Object.keys(STATES);

/** @param {Row} row a product with nothing listed counts as newest: it needs attention */
const newestTime = ({ product: { versions } }) => (versions.length > 0 ? (versions[0].when ?? 0) : Number.MAX_SAFE_INTEGER);

/** @type {Record<string, (a: Row, b: Row) => number>} ascending */
const SORTS = {
  image: (a, b) => COLLATOR.compare(a.product.title, b.product.title),
  arch: (a, b) => COLLATOR.compare(a.product.arch, b.product.arch),
  variant: (a, b) => COLLATOR.compare(a.product.variant, b.product.variant),
  kind: (a, b) => COLLATOR.compare(a.product.kinds.join(), b.product.kinds.join()),
  newest: (a, b) => newestTime(a) - newestTime(b),
  size: (a, b) => a.product.sizeBytes - b.product.sizeBytes,
  state: (a, b) => STATE_ORDER.indexOf(a.state) - STATE_ORDER.indexOf(b.state),
};

/** @param {Query} query @returns {string[]} what is filtered by, in words */
export function activeFilters({ search, facets }) {
  const chosen = Object.entries(facets).filter(([, value]) => value);
  const words = chosen.map(([name, value]) => `${FACETS[name].label.toLowerCase()} ${VALUE_NAMES.get(value) ?? value}`);
  return search ? [`"${search}"`, ...words] : words;
}

/** @param {Row[]} rows sorted in place, ties by product key @param {string} sort */
function sortRows(rows, sort) {
  const sign = sort.startsWith("-") ? -1 : 1;
  const compare = SORTS[sort.replace("-", "")] ?? SORTS.newest;
  return rows.sort((a, b) => sign * compare(a, b) || (a.product.key < b.product.key ? -1 : 1));
}
