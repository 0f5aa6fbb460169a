// The list of products. Only the rows near the viewport are in the document, so that 5,000 cost as much as 50.
import { byId, h, icon, moment } from "./dom.js";
import { STATES, shortestAlias, size, stamp } from "./model.js";
import { formatQuery, parseQuery } from "./query.js";

/** @typedef {import("./query.js").Row} Row */
/** @typedef {import("./query.js").Query} Query */

const OVERSCAN = 10;
const KIND_NAMES = { container: "Container", vm: "VM" };

/** @param {Row["state"]} state */
export const badge = (state) => h(`span.badge.${state}`, {}, icon(`i-${state}`), STATES[state]);

/** @param {import("./model.js").Product} product @returns {import("./dom.js").Child[]} what a launch downloads */
function downloads(product) {
  const images = product.versions[0]?.images ?? [];
  const [first, second] = product.kinds.map((kind) => size(images.find((image) => image.kind === kind)?.sizeBytes ?? 0));
  return [first ?? "–", second ? h("span.sub", {}, `VM ${second}`) : null];
}

export class Table {
  /** @param {(key: string) => void} onOpen */
  constructor(onOpen) {
    this.body = byId("rows");
    this.onOpen = onOpen;
    /** @type {Row[]} */
    this.rows = [];
    this.query = parseQuery("");
    this.now = 0;
    /** @type {Set<string>} */
    this.fresh = new Set();
    /** @type {Map<string, HTMLElement>} the rows in the document, by product key */
    this.drawn = new Map();
    this.before = h("tr.space", { "aria-hidden": "true" }, h("td"));
    this.after = h("tr.space", { "aria-hidden": "true" }, h("td"));
    this.body.append(this.before, this.after);
    this.body.addEventListener("click", (/** @type {MouseEvent} */ event) => this.#clicked(event));
    this.body.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#pressed(event));
    for (const event of ["scroll", "resize"]) addEventListener(event, () => this.#later(), { passive: true });
    this.waiting = false;
  }

  /**
   * @param {Row[]} rows @param {Query} query @param {number} now @param {Set<string>} fresh keys to mark as just arrived
   */
  show(rows, query, now, fresh) {
    Object.assign(this, { rows, query, now, fresh });
    const focused = this.body.contains(document.activeElement) ? this.#focusedKey() : "";
    for (const row of this.drawn.values()) row.remove();
    this.drawn.clear();
    byId("table").setAttribute("aria-rowcount", String(rows.length + 1));
    this.draw();
    this.focus(focused);
  }

  /** Puts the rows of the viewport into the document and takes the others out, leaving shared ones untouched. */
  draw() {
    const height = this.#rowHeight();
    const top = this.body.getBoundingClientRect().top;
    const room = Math.ceil(innerHeight / height) + 2 * OVERSCAN;
    // A list that has just become short may still be scrolled to where it was long.
    const first = Math.max(0, Math.min(Math.floor(-top / height) - OVERSCAN, this.rows.length - room));
    const wanted = this.rows.slice(first, first + room);
    const keys = new Set(wanted.map(({ product }) => product.key));
    for (const [key, row] of this.drawn) {
      if (keys.has(key)) continue;
      row.remove();
      this.drawn.delete(key);
    }
    /** @type {Element} */
    let previous = this.before;
    wanted.forEach((row, offset) => {
      const element = this.drawn.get(row.product.key) ?? this.#row(row, first + offset);
      if (previous.nextSibling !== element) previous.after(element);
      this.drawn.set(row.product.key, element);
      previous = element;
    });
    this.#space(this.before, first * height);
    this.#space(this.after, (this.rows.length - first - wanted.length) * height);
  }

  /** @param {string} key marks the open product */
  mark(key) {
    for (const [drawn, row] of this.drawn) row.toggleAttribute("aria-current", drawn === key);
  }

  /** @param {string} key @returns {number | undefined} pixels from the top of the viewport, when it is drawn */
  top(key) {
    return this.drawn.get(key)?.getBoundingClientRect().top;
  }

  /** @param {string} key */
  focus(key) {
    this.drawn.get(key)?.querySelector("a")?.focus({ preventScroll: true });
  }

  /** @param {HTMLElement} row @param {number} pixels */
  #space(row, pixels) {
    row.hidden = pixels <= 0;
    /** @type {HTMLElement} */ (row.firstElementChild).style.height = `${Math.max(0, pixels)}px`;
  }

  #rowHeight() {
    return Number.parseFloat(getComputedStyle(this.body).getPropertyValue("--row"));
  }

  #later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  /** @param {Row} row @param {number} index */
  #row(row, index) {
    const { product, state } = row;
    const newest = product.versions[0];
    const kinds = product.kinds.map((kind) => h(`span.kind.${kind}`, {}, KIND_NAMES[kind]));
    const when = newest?.when ?? null;
    const element = h(
      "tr",
      { "aria-rowindex": index + 2, "data-key": product.key },
      h(
        "td.image",
        {},
        h("a", { href: formatQuery({ ...this.query, open: product.key }) }, product.title),
        h("span.sub.wide", {}, shortestAlias(product) || product.name),
        h("span.sub.narrow", {}, [product.arch, product.variant, ...product.kinds.map((k) => KIND_NAMES[k])].join(" · ")),
      ),
      h("td.arch", {}, product.arch),
      h("td.variant", {}, product.variant),
      h("td.kinds", {}, ...(kinds.length > 0 ? kinds : ["–"])),
      h(
        "td.newest",
        { title: when === null ? false : stamp(when) },
        ...this.#age(newest, when),
        state !== "healthy" && h(`span.sub.tiny.${state}`, {}, STATES[state]),
      ),
      h("td.size", {}, ...downloads(product)),
      h("td.state", {}, badge(state)),
    );
    if (product.key === this.query.open) element.setAttribute("aria-current", "true");
    if (this.fresh.has(product.key)) element.classList.add("fresh");
    return element;
  }

  /** @param {import("./model.js").Version | undefined} newest @param {number | null} when */
  #age(newest, when) {
    if (!newest) return [h("span.sub", {}, "Nothing listed")];
    const name = h("span.sub.wide", {}, newest.name);
    return when === null ? [newest.name] : [moment(when, this.now), name];
  }

  /** @returns {string} */
  #focusedKey() {
    return document.activeElement?.closest("tr")?.dataset.key ?? "";
  }

  /** @param {MouseEvent} event the whole row opens; a click with a modifier key is left to the browser */
  #clicked(event) {
    const row = /** @type {Element} */ (event.target).closest("tr");
    const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0;
    if (!row?.dataset.key || elsewhere || String(getSelection())) return;
    event.preventDefault();
    this.onOpen(row.dataset.key);
  }

  /** @param {KeyboardEvent} event arrows move through the rows, including those not drawn yet */
  #pressed(event) {
    const key = this.#focusedKey();
    const from = this.rows.findIndex(({ product }) => product.key === key);
    const page = Math.max(1, Math.floor(innerHeight / this.#rowHeight()) - 3);
    const last = this.rows.length - 1;
    /** @type {Record<string, number>} */
    const moves = { ArrowDown: from + 1, ArrowUp: from - 1, PageDown: from + page, PageUp: from - page, Home: 0, End: last };
    if (from < 0 || !(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.reveal(Math.min(Math.max(moves[event.key], 0), last));
  }

  /** @param {number} index scrolls as little as needed and puts the focus there */
  reveal(index) {
    const height = this.#rowHeight();
    const top = this.body.getBoundingClientRect().top + index * height;
    const head = byId("table").tHead.getBoundingClientRect().bottom;
    if (top < head) scrollBy(0, top - head - 8);
    else if (top + height > innerHeight) scrollBy(0, top + height - innerHeight + 8);
    this.draw();
    const { product } = this.rows[index];
    this.drawn.get(product.key)?.querySelector("a")?.focus({ preventScroll: true });
  }
}
