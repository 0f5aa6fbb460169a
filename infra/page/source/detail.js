// One product in full.
import { address } from "./catalog.js";
import { CACHES, explain, fetchNow, launch } from "./commands.js";
import { commandLine, copyButton, h, moment } from "./dom.js";
import { WHY_UNLISTED, age, size, source, stamp, verdict } from "./model.js";
import { badge } from "./table.js";

/** @typedef {import("./model.js").Product} Product */
/** @typedef {import("./model.js").Version} Version */
/** @typedef {{base: string, remote: string, now: number, claims: Map<string, number>, compared: Map<string, number>}} Context */

/** @type {Record<string, string>} */
const FORMS = {
  squashfs: "Container",
  "tar.xz": "Container, tar.xz root",
  unified: "Container, unified tarball",
  qcow2: "Virtual machine",
  disk1: "Virtual machine, disk1.img",
  uefi1: "Virtual machine, uefi1.img",
};

/**
 * All but the title.
 * @param {import("./query.js").Row} row @param {Context} context @returns {Node[]}
 */
export function detail({ product, state }, context) {
  const [newest, ...older] = product.versions;
  return [
    h("p.verdict", {}, badge(state), " ", ...sentence(product, state, context.now)),
    ...section("Uploads not listed", product.unlisted.map((note) => unlisted(product, note))),
    ...section(state === "withheld" ? "Reasons" : "Withheld", notes(product.withheld)),
    ...section("Launch", launchLines(product, context)),
    ...section("Claimed by others", notes(product.shared)),
    ...section("About", [facts(product, newest, context)]),
    ...section("Fingerprints", fingerprints(newest)),
    ...section("Not there yet, or an older version starts?", cacheHelp(newest, context)),
    ...section("Files", newest ? [files(newest, context)] : []),
    ...section("Older versions", older.map((version) => olderVersion(version, context))),
  ];
}

/** @param {string} title @param {Node[]} content @returns {Node[]} nothing when there is no content */
const section = (title, content) => (content.length > 0 ? [h("section", {}, h("h3", {}, title), ...content)] : []);

/** @param {Product} product @param {import("./model.js").State} state @param {number} now */
function sentence(product, state, now) {
  const when = product.versions[0]?.when ?? null;
  return when === null ? [verdict(product, state)] : [verdict(product, state), " Newest version: ", moment(when, now), "."];
}

/** @param {Product} product @param {Context} context */
function launchLines(product, { remote, claims }) {
  const commands = launch(product, remote, claims);
  const kinds = new Set(commands.map(({ kind }) => kind));
  return commands.map((command) => {
    const kind = command.kind === "vm" ? " as a virtual machine" : kinds.size > 1 ? " as a container" : "";
    return commandLine(command, `the ${command.client} launch command${kind}`);
  });
}

/** @param {Product} product @param {import("./model.js").Note} note its public part, and the command that gives details */
function unlisted(product, { what, why }) {
  const commands = explain(product.key, what).map((command) => commandLine(command, `the command that explains ${what}`));
  return h("div.unlisted", {}, h("p", {}, h("code", {}, what), " ", WHY_UNLISTED[why] ?? why), ...commands);
}

/** @param {import("./model.js").Note[]} entries */
function notes(entries) {
  if (entries.length === 0) return [];
  return [h("ul.notes", {}, ...entries.map(({ what, why }) => h("li", {}, h("code", {}, what), " ", why)))];
}

/** @param {Product} product @param {Version | undefined} newest @param {Context} context */
function facts(product, newest, { now, compared }) {
  const list = h("dl", {});
  /** @param {string} term @param {...import("./dom.js").Child} value */
  const fact = (term, ...value) => {
    if (value.some(Boolean)) list.append(h("dt", {}, term), h("dd", {}, ...value));
  };
  const aliases = product.aliases.map((alias) => h("li", {}, h("code", {}, alias)));
  fact("Aliases", aliases.length > 0 && h("ul.aliases", {}, ...aliases));
  fact("Newest", newest && h("code", {}, newest.name), ...(newest?.when == null ? [] : [", ", moment(newest.when, now)]));
  fact("Label", newest?.label);
  fact("Download", ...sizes(newest));
  fact("Codename", product.codename === product.release ? "" : product.codename);
  fact("Release", product.title.endsWith(product.release) ? "" : product.release);
  fact("End of life", product.eolText && endOfLife(product, now));
  const needs = product.requirements.map(([key, value]) => h("li", {}, h("code", {}, `${key}=${value}`)));
  fact("Requirements", needs.length > 0 && h("ul.aliases", {}, ...needs));
  fact("Comes from", ...comesFrom(product, newest, compared, now));
  fact("Signed by", newest?.signedBy && h("code", {}, newest.signedBy));
  fact("Stream", product.stream);
  fact("Product", h("code", {}, product.name));
  return list;
}

/** @param {Product} product @param {Version | undefined} newest @param {Map<string, number>} compared @param {number} now */
function comesFrom({ stream }, newest, compared, now) {
  if (!newest?.mirroredFrom) return [];
  const when = compared.get(source(stream, newest.mirroredFrom));
  return [h("code", {}, newest.mirroredFrom), ...(when === undefined ? [] : [", compared ", moment(when, now)])];
}

/** @param {Product} product @param {number} now */
function endOfLife(product, now) {
  return product.eol === null ? product.eolText : `${product.eolText}, ${age(product.eol, now)}`;
}

/** @param {Version | undefined} newest @returns {string[]} */
function sizes(newest) {
  const parts = (newest?.images ?? []).map((image) => `${FORMS[image.form]} ${size(image.sizeBytes)}`);
  return parts.length > 0 ? [parts.join(", ")] : [];
}

/** @param {Version | undefined} newest */
function fingerprints(newest) {
  return (newest?.images ?? []).map((image) =>
    h(
      "div.fingerprint",
      {},
      h("span.form", {}, FORMS[image.form]),
      h("code.digest", {}, h("b", {}, image.fingerprint.slice(0, 12)), image.fingerprint.slice(12)),
      copyButton(image.fingerprint, `the fingerprint of the ${FORMS[image.form].toLowerCase()}`),
    ),
  );
}

/** @param {Version | undefined} newest @param {Context} context @returns {Node[]} the commands that bypass or empty a daemon's cache */
function cacheHelp(newest, { remote }) {
  const images = newest?.images ?? [];
  const lines = ["incus", "lxc"].flatMap((client) => {
    const image = images.find(({ clients }) => clients.includes(client));
    return image ? [commandLine(fetchNow(client, remote, image.fingerprint), `the ${client} command that fetches this version`)] : [];
  });
  if (lines.length === 0) return [];
  const caches = CACHES.filter(({ client }) => images.some(({ clients }) => clients.includes(client)));
  const clear = caches.map(({ daemon, line }) => commandLine({ client: "sudo", kind: "", line }, `the command that empties the cache of ${daemon}`));
  return [
    h(
      "details.older",
      {},
      h("summary", {}, "A daemon keeps the catalog for an hour"),
      h("p", {}, "This command fetches the version now; the client reads the catalog and passes the image on to the daemon:"),
      ...lines,
      h("p", {}, "Or empty the cache of the daemon, which then reads the catalog again: ", caches.map(({ daemon }) => daemon).join(", "), "."),
      ...clear,
    ),
  ];
}

/** @param {Version} version @param {Context} context */
function files(version, { base }) {
  const entries = version.files.map((file) =>
    h(
      "li",
      {},
      h(
        "div.file",
        {},
        h("a", { href: address(base, file.path), download: true }, file.name),
        file.deltaBase ? h("span.sub", {}, `from ${file.deltaBase}`) : null,
        h("span.size", {}, size(file.sizeBytes)),
      ),
      h("code.digest", { "aria-label": `sha256 ${file.sha256}` }, file.sha256),
    ),
  );
  return h("ul.files", {}, ...entries);
}

/** @param {Version} version @param {Context} context files appear when it is opened, so a long history costs nothing */
function olderVersion(version, context) {
  const when = version.when === null ? "" : age(version.when, context.now);
  const summary = h(
    "summary",
    { title: version.when === null ? false : stamp(version.when) },
    h("code", {}, version.name),
    h("span.sub", {}, [version.label, when].filter(Boolean).join(" · ")),
  );
  const folded = h("details.older", { "data-version": version.name }, summary);
  folded.addEventListener("toggle", () => {
    if (folded.childElementCount === 1) folded.append(...fingerprints(version), files(version, context));
  });
  return folded;
}
