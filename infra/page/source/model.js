// The catalog as values. No DOM, clock or network here: `now` is always an argument.
// No value from the catalog is trusted to have the right type: a wrong one reads as absent.

/**
 * @typedef {"container" | "vm"} Kind
 * @typedef {"healthy" | "stale" | "eol" | "incomplete" | "withheld" | "invalid"} State
 * @typedef {{path: string, name: string, ftype: string, sizeBytes: number, sha256: string, deltaBase: string}} CatalogFile
 * @typedef {{kind: Kind, form: string, fingerprint: string, sizeBytes: number, clients: string[]}} Image
 *   an image that a client can launch; sizeBytes is what it downloads, metadata and root
 * @typedef {{
 *   name: string, label: string, when: number | null, files: CatalogFile[], images: Image[], mirroredFrom: string, signedBy: string,
 * }} Version
 *   when is milliseconds since the epoch; mirroredFrom is the host of another server, signedBy the key that signed its document
 * @typedef {{what: string, why: string}} Note
 * @typedef {{
 *   key: string, stream: string, name: string, title: string, os: string, release: string, codename: string,
 *   arch: string, variant: string, aliases: string[], requirements: [string, string][], supported: boolean,
 *   eol: number | null, eolText: string, versions: Version[], kinds: Kind[], sizeBytes: number,
 *   withheld: Note[], shared: Note[], unlisted: Note[], haystack: string, raw: unknown[],
 * }} Product
 */

const DAY_MS = 86_400_000;

/** Which combined digest is the fingerprint of which root (the clients' rule, see their simplestreams/products.go). */
const ROOTS = [
  { ftype: "squashfs", fields: ["combined_squashfs_sha256"], kind: "container", form: "squashfs" },
  { ftype: "root.tar.xz", fields: ["combined_rootxz_sha256", "combined_sha256"], kind: "container", form: "tar.xz" },
  { ftype: "disk-kvm.img", fields: ["combined_disk-kvm-img_sha256"], kind: "vm", form: "qcow2" },
  { ftype: "disk1.img", fields: ["combined_disk1-img_sha256"], kind: "vm", form: "disk1" },
  { ftype: "uefi1.img", fields: ["combined_uefi1-img_sha256"], kind: "vm", form: "uefi1" },
];
const METADATA = new Map([["incus.tar.xz", "incus"], ["lxd.tar.xz", "lxc"]]);
const UNIFIED = new Map([["incus_combined.tar.gz", "incus"], ["lxd_combined.tar.gz", "lxc"]]);

/** @param {unknown} value @returns {Record<string, any>} */
export const record = (value) =>
  value !== null && typeof value === "object" && !Array.isArray(value) ? /** @type {Record<string, any>} */ (value) : {};

/** @param {unknown} value */
export const text = (value) => (typeof value === "string" ? value : "");

/** @param {unknown} value */
const count = (value) => (typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : 0);

/**
 * The UTC time in a version name, or null if it has no known form or is not a real date; a respin (`20261123.1`) has the time of its day.
 * @param {string} name
 */
export function versionTime(name) {
  const parts = /^(\d{4})(\d\d)(\d\d)(?:_?(\d\d):?(\d\d)|\.\d{1,4})?$/.exec(name);
  if (!parts) return null;
  const [year, month, day, hour, minute] = parts.slice(1).map((part) => Number(part ?? 0));
  const when = Date.UTC(year, month - 1, day, hour, minute);
  const back = new Date(when);
  const real = back.getUTCMonth() === month - 1 && back.getUTCDate() === day && hour < 24 && minute < 60;
  return real ? when : null;
}

/** @param {string} day YYYY-MM-DD @returns {number | null} the end of that day, UTC */
export function endOfDay(day) {
  const start = versionTime(day.replaceAll("-", ""));
  return /^\d{4}-\d\d-\d\d$/.test(day) && start !== null ? start + DAY_MS : null;
}

/** @param {Record<string, any>} items @returns {CatalogFile[]} each path once, even when two items share it */
function readFiles(items) {
  /** @type {Map<string, CatalogFile>} */
  const files = new Map();
  for (const raw of Object.values(items)) {
    const item = record(raw);
    const path = text(item.path);
    if (!path || files.has(path)) continue;
    files.set(path, {
      path,
      name: path.slice(path.lastIndexOf("/") + 1),
      ftype: text(item.ftype),
      sizeBytes: count(item.size),
      sha256: text(item.sha256),
      deltaBase: text(item.delta_base),
    });
  }
  return [...files.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** @param {Record<string, any>} items @returns {Image[]} containers first; one entry per fingerprint and form */
function readImages(items) {
  /** @type {Map<string, Image>} */
  const images = new Map();
  /** @param {string} client @param {Kind} kind @param {string} form @param {string} fingerprint @param {number} sizeBytes */
  const add = (client, kind, form, fingerprint, sizeBytes) => {
    const known = images.get(form + fingerprint);
    if (known) known.clients.push(client);
    else images.set(form + fingerprint, { kind, form, fingerprint, sizeBytes, clients: [client] });
  };
  const all = Object.values(items).map(record);
  for (const item of all) {
    const ftype = text(item.ftype);
    const unified = UNIFIED.get(ftype);
    if (unified) add(unified, "container", "unified", text(item.sha256), count(item.size));
    const client = METADATA.get(ftype);
    if (!client) continue;
    for (const { ftype: wanted, fields, kind, form } of ROOTS) {
      const root = all.find((other) => other.ftype === wanted);
      const fingerprint = fields.map((field) => text(item[field])).find(Boolean);
      if (root && fingerprint) {
        add(client, /** @type {Kind} */ (kind), form, fingerprint, count(item.size) + count(root.size));
      }
    }
  }
  const order = ROOTS.map(({ form }) => form);
  return [...images.values()].sort((a, b) => order.indexOf(a.form) - order.indexOf(b.form));
}

/** @param {string} name @param {unknown} raw @returns {Version} */
function readVersion(name, raw) {
  const version = record(raw);
  const items = record(version.items);
  return {
    name,
    label: text(version.label),
    when: versionTime(name),
    files: readFiles(items),
    images: readImages(items),
    mirroredFrom: text(version.mirrored_from),
    signedBy: text(version.upstream_signed_by),
  };
}

/** The key of `compared`. @param {string} stream @param {string} host */
export const source = (stream, host) => `${stream} ${host}`;

/**
 * When each followed server was last compared, in milliseconds since the epoch.
 * @param {unknown} document @returns {Map<string, number>} by `source`
 */
export function readCompared(document) {
  const mirrors = record(document).mirrors;
  /** @type {Map<string, number>} */
  const compared = new Map();
  for (const one of Array.isArray(mirrors) ? mirrors.map(record) : []) {
    const key = source(text(one.stream), text(one.host));
    const when = Date.parse(text(one.compared));
    if (!Number.isNaN(when)) compared.set(key, Math.max(when, compared.get(key) ?? 0));
  }
  return compared;
}

/** @param {Record<string, any>} raw @returns {[string, string][]} both spellings of the field, merged */
function readRequirements(raw) {
  const merged = { ...record(raw.lxd_requirements), ...record(raw.requirements) };
  return Object.entries(merged).map(([key, value]) => [key, String(value)]);
}

/** @param {unknown} raw @returns {Note[]} */
function readWithheld(raw) {
  return (Array.isArray(raw) ? raw : []).map(record).map((entry) => ({
    what: text(entry.alias) || [text(entry.version), text(entry.file)].filter(Boolean).join("/"),
    why: text(entry.reason) || "no reason given",
  }));
}

/** The one-word state of an unlisted version in the public document, as a sentence. @type {Record<string, string>} */
export const WHY_UNLISTED = {
  incomplete: "is incomplete: its metadata or a root has not arrived, or is being read.",
  invalid: "is invalid: a file was refused. Its publisher can see which one, and why, with:",
};

/** @param {unknown} raw @returns {Note[]} newest first; why is "incomplete" or "invalid" */
function readUnlisted(raw) {
  const notes = Object.entries(record(raw)).map(([what, why]) => ({ what, why: text(why) || "incomplete" }));
  return notes.sort((a, b) => (a.what < b.what ? 1 : -1));
}

/**
 * @param {string} stream @param {string} name the product's key, os:release:arch:variant
 * @param {unknown} rawProduct absent for a product with nothing listed @param {unknown} rawWithheld @param {unknown} rawUnlisted
 * @returns {Product}
 */
function readProduct(stream, name, rawProduct, rawWithheld, rawUnlisted) {
  const raw = record(rawProduct);
  const [osPart = "", releasePart = "", archPart = "", variantPart = ""] = name.split(":");
  const versions = Object.entries(record(raw.versions))
    .map(([version, value]) => readVersion(version, value))
    .sort((a, b) => (a.name < b.name ? 1 : -1));
  const images = versions[0]?.images ?? [];
  const os = text(raw.os) || osPart;
  const release = text(raw.release) || releasePart;
  const eolText = text(raw.support_eol);
  const product = {
    key: `${stream}/${name}`,
    stream,
    name,
    title: `${os} ${text(raw.release_title) || release}`,
    os,
    release,
    codename: text(raw.release_codename),
    arch: text(raw.arch) || archPart,
    variant: text(raw.variant) || variantPart,
    aliases: text(raw.aliases).split(",").filter(Boolean),
    requirements: readRequirements(raw),
    supported: raw.supported !== false,
    eol: endOfDay(eolText),
    eolText,
    versions,
    kinds: /** @type {Kind[]} */ (["container", "vm"].filter((kind) => images.some((image) => image.kind === kind))),
    sizeBytes: Math.max(0, ...images.map((image) => image.sizeBytes)),
    withheld: readWithheld(rawWithheld),
    shared: /** @type {Note[]} */ ([]),
    unlisted: readUnlisted(rawUnlisted),
    haystack: "",
    raw: [rawProduct, rawWithheld, rawUnlisted],
  };
  product.haystack = haystack(product);
  return product;
}

/** @param {Product} product @returns {string} the text that is searched, including fingerprints and version names */
function haystack(product) {
  const versions = product.versions.flatMap((version) => [
    version.name,
    ...version.images.map((image) => image.fingerprint),
  ]);
  const words = [product.title, product.key, product.codename, product.variant, ...product.aliases, ...versions];
  return words.join("\n").toLowerCase();
}

/**
 * Every product of a stream, including those with nothing listed.
 * @param {string} stream @param {unknown} document the products document, with our `withheld` next to the products
 * @param {unknown} unlisted our document of unlisted uploads @returns {Product[]}
 */
export function readProducts(stream, document, unlisted) {
  const listed = record(record(document).products);
  const withheld = record(record(document).withheld);
  const waiting = record(record(unlisted).products);
  const names = new Set([listed, withheld, waiting].flatMap((part) => Object.keys(part)));
  return [...names].map((name) => readProduct(stream, name, listed[name], withheld[name], waiting[name]));
}

/**
 * Adds to each product the images and aliases that others claim and do not get, because it has them. Clients read all
 * streams as one list, so this covers the products of all of them.
 * @param {Product[]} products of all streams @returns {Product[]} the same
 */
export function share(products) {
  const holders = new Map(products.map((product) => [product.key, product]));
  for (const product of products) product.shared = [];
  for (const { stream, name, raw: [, withheld] } of products) {
    for (const entry of (Array.isArray(withheld) ? withheld : []).map(record)) {
      const heldBy = text(entry.held_by);
      const elsewhere = heldBy.split(":").length === 5; // a stream in front
      const holder = holders.get(elsewhere ? heldBy.replace(":", "/") : `${stream}/${heldBy}`);
      holder?.shared.push(readShared(elsewhere ? `${stream}:${name}` : name, entry));
    }
  }
  return products;
}

/**
 * A claim that another product lost, as a note for the product that holds the image or alias.
 * @param {string} name of the other product @param {Record<string, unknown>} entry @returns {Note}
 */
function readShared(name, entry) {
  const alias = text(entry.alias);
  if (alias) return { what: alias, why: `${name} also claims this alias` };
  const file = [name, text(entry.version), text(entry.file)].filter(Boolean).join("/");
  return { what: file, why: "is a copy of an image of this product; it is listed here only" };
}

/**
 * The streams that an index names, in its order.
 * @param {unknown} index @returns {{stream: string, path: string}[]}
 */
export function readIndex(index) {
  return Object.entries(record(record(index).index))
    .map(([stream, entry]) => ({ stream, path: text(record(entry).path) }))
    .filter(({ path }) => path !== "");
}

/** @type {Record<State, string>} in the order of the summary */
export const STATES = {
  healthy: "Healthy",
  stale: "Stale",
  eol: "End of life",
  incomplete: "Incomplete",
  withheld: "Withheld",
  invalid: "Invalid",
};

/**
 * One state per product: nothing listed outweighs end of life, and that outweighs age.
 * @param {Product} product @param {number} now @param {number} staleDays @returns {State}
 */
export function stateOf(product, now, staleDays) {
  const newest = product.versions[0];
  if (!newest && product.unlisted.length === 0) return "withheld";
  if (!newest) return product.unlisted[0]?.why === "incomplete" ? "incomplete" : "invalid";
  if ((product.eol !== null && product.eol <= now) || !product.supported) return "eol";
  if (newest.when !== null && now - newest.when > staleDays * DAY_MS) return "stale";
  return "healthy";
}

/** @param {Product} product @returns {string} "" when it has none */
export const shortestAlias = (product) => [...product.aliases].sort((a, b) => a.length - b.length)[0] ?? "";

/**
 * The state in one sentence. The age of the newest version is shown next to it.
 * @param {Product} product @param {State} state
 */
export function verdict(product, state) {
  if (state === "withheld") return "Nothing is listed, for the reasons below.";
  if (state === "invalid") return "Nothing is listed: a file of the newest upload was refused.";
  if (state === "incomplete") return "Nothing is listed yet: the newest upload lacks its metadata or a root, or is being read.";
  if (state === "stale") return "No new version for a while.";
  if (state === "healthy") return "Up to date.";
  return product.supported ? `Support ended on ${product.eolText}.` : "Marked as not supported by its publisher.";
}

const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "always" });
/** @type {[Intl.RelativeTimeFormatUnit, number][]} */
const UNITS = [
  ["year", 365 * DAY_MS],
  ["month", 30 * DAY_MS],
  ["day", DAY_MS],
  ["hour", 3_600_000],
  ["minute", 60_000],
];

/** @param {number} when @param {number} now */
export function age(when, now) {
  const elapsed = now - when;
  for (const [unit, length] of UNITS) {
    if (Math.abs(elapsed) >= length) return RELATIVE.format(-Math.trunc(elapsed / length), unit);
  }
  return "just now";
}

/** @param {number} bytes in binary units, as the clients print them */
export function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(Math.floor(Math.log2(bytes) / 10), units.length);
  const value = bytes / 1024 ** power;
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[power - 1]}`;
}

/** @param {number} when */
export const stamp = (when) => `${new Date(when).toISOString().slice(0, 16).replace("T", " ")} UTC`;
