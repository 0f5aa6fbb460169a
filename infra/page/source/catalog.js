// Reading the catalog over HTTP: revalidated, and never forgotten because of an error.
import { readCompared, readIndex, readProducts, share } from "./model.js";

/** @typedef {import("./model.js").Product} Product */
/** @typedef {{etag: string, revision: number, value: unknown}} Known */

const INDEX = "streams/v1/index.json";
const MIRRORS = "streams/mirrors.json";
const USUAL_STREAM = "images";
const TIMEOUT_MS = 60_000;

/** @type {Known} */
const NOTHING = { etag: "", revision: 0, value: undefined };

/** A document that could not be read; `missing` when the server says that there is none. */
export class Unreadable extends Error {
  /** @param {string} path @param {string} why @param {boolean} missing */
  constructor(path, why, missing = false) {
    super(`${path}: ${why}`);
    this.missing = missing;
  }
}

/**
 * The address of a path that the catalog names: always below the page's own, whatever the path says.
 * @param {string} base ends with "/" @param {string} path
 */
export function address(base, path) {
  const parts = path.split("/").filter((part) => part !== "" && part !== "." && part !== "..");
  return base + parts.map((part) => encodeURIComponent(part).replaceAll("%3A", ":")).join("/");
}

export class Catalog {
  /** @param {string} base the address that the page is served under, with its last "/" */
  constructor(base) {
    this.base = base;
    /** @type {Map<string, Known>} */
    this.known = new Map();
    /** @type {Map<string, {revision: string, products: Product[]}>} */
    this.streams = new Map();
    /** @type {string[]} */
    this.problems = [];
    this.empty = false;
    /** @type {Map<string, number>} when each followed server was last compared, see readCompared */
    this.compared = new Map();
    this.comparedRevision = 0;
  }

  /** @returns {Product[]} of the last good reading of each stream */
  products() {
    return [...this.streams.values()].flatMap(({ products }) => products);
  }

  /**
   * Reads what changed. Errors end up in `problems`; what was read before stays.
   * @returns {Promise<boolean>} whether products changed
   */
  async refresh() {
    this.problems = [];
    const index = await this.#read(INDEX).catch((error) => this.#failed(error, this.known.size === 0));
    if (!index) return false;
    const entries = readIndex(index.value);
    // A stream joins the index with its first listed product; before that, uploads may be waiting in the usual one.
    if (!entries.some(({ stream }) => stream === USUAL_STREAM)) entries.push({ stream: USUAL_STREAM, path: "" });
    const changes = await Promise.all(entries.map((entry) => this.#refreshStream(entry)));
    const gone = [...this.streams.keys()].filter((stream) => !entries.some((entry) => entry.stream === stream));
    for (const stream of gone) this.streams.delete(stream);
    share(this.products());
    this.empty = this.problems.length === 0 && this.products().length === 0;
    return (await this.#refreshCompared()) || gone.length > 0 || changes.includes(true);
  }

  /** @returns {Promise<boolean>} whether it changed. Not read where nothing comes from another server. */
  async #refreshCompared() {
    if (!this.products().some(({ versions }) => versions.some(({ mirroredFrom }) => mirroredFrom))) return false;
    const known = await this.#read(MIRRORS).catch((error) => this.#absentOrKnown(error, MIRRORS));
    if (known.revision === this.comparedRevision) return false;
    this.comparedRevision = known.revision;
    this.compared = readCompared(known.value);
    return true;
  }

  /** @param {{stream: string, path: string}} entry without a path when nothing is listed @returns {Promise<boolean>} */
  async #refreshStream({ stream, path }) {
    const unlistedPath = `streams/v1/${stream}.unlisted.json`;
    const [document, unlisted] = await Promise.all([
      path ? this.#read(path).catch((error) => this.#failed(error, false)) : NOTHING,
      this.#read(unlistedPath).catch((error) => this.#absentOrKnown(error, unlistedPath)),
    ]);
    if (!document) return false;
    const revision = `${document.revision}, ${unlisted.revision}`;
    if (this.streams.get(stream)?.revision === revision) return false;
    this.streams.set(stream, { revision, products: readProducts(stream, document.value, unlisted.value) });
    return true;
  }

  /** @param {unknown} error @param {string} path @returns {Known} nothing, when the server says that there is nothing */
  #absentOrKnown(error, path) {
    if (error instanceof Unreadable && error.missing) return NOTHING;
    this.#failed(error, false);
    return this.known.get(path) ?? NOTHING;
  }

  /**
   * Only "there is none", on the very first reading, means an empty server.
   * @param {unknown} error @param {boolean} missingIsEmpty @returns {undefined}
   */
  #failed(error, missingIsEmpty) {
    if (!(error instanceof Unreadable)) throw error;
    this.empty = missingIsEmpty && error.missing;
    if (!this.empty) this.problems.push(error.message);
  }

  /** @param {string} path @returns {Promise<Known>} */
  async #read(path) {
    const known = this.known.get(path);
    // With a validator of our own the browser hands us the 304; without one its cache may still save the transfer.
    const init = known?.etag ? { headers: { "If-None-Match": known.etag } } : { cache: /** @type {const} */ ("no-cache") };
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const response = await fetch(address(this.base, path), { ...init, signal }).catch((error) => {
      throw new Unreadable(path, error.name === "TimeoutError" ? "no answer in time" : "the server did not answer");
    });
    if (response.status === 304 && known) return known;
    if (!response.ok) throw new Unreadable(path, `the server answered ${response.status}`, response.status === 404);
    const etag = response.headers.get("ETag") ?? "";
    if (known && etag && etag === known.etag) return known;
    const value = await response.json().catch(() => {
      throw new Unreadable(path, "the answer is not JSON, or was cut short");
    });
    const fresh = { etag, revision: (known?.revision ?? 0) + 1, value };
    this.known.set(path, fresh);
    return fresh;
  }
}
