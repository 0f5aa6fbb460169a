// The commands that people copy into a terminal. Values from the catalog are quoted: a name is never code.

import { shortestAlias } from "./model.js";

/** @typedef {import("./model.js").Product} Product */
/** @typedef {{client: string, line: string, kind: string}} Command */

/** @param {string} word @returns {string} one shell word */
const quote = (word) => (/^[\w./:@%,=-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);

/** Control characters would act on a terminal even between quotes, so no command is offered for them. */
const printable = (/** @type {string} */ word) => !/[\p{Cc}\p{Cf}]/u.test(word);

/** Remotes that the clients come with, and words that name no server. */
const TAKEN = /^(images|ubuntu(-minimal)?(-daily)?|local|localhost|www)$/;

/** @param {string} hostname @returns {string} a short name for the remote, out of the server's own */
export function remoteName(hostname) {
  const names = hostname.split(".").slice(0, -1);
  return names.find((name) => /^[a-z][a-z0-9-]*$/.test(name) && !TAKEN.test(name)) ?? "my-images";
}

/** @param {string} remote @param {string} url @returns {Command[]} */
export function remoteAdd(remote, url) {
  return ["incus", "lxc"].map((client) => ({
    client,
    kind: "remote",
    line: `${client} remote add ${quote(remote)} ${url} --protocol=simplestreams`,
  }));
}

/** @param {string} line @returns {Command} a command of this project */
const script = (line) => ({ client: line.split(" ", 1)[0], kind: "", line });

/**
 * The commands for the first upload to an empty server. presign prints the curl lines, since each has the headers that its URL signs.
 * @param {string} remote @param {number} now @returns {Record<"upload" | "presign" | "launch", Command>}
 */
export function firstUpload(remote, now) {
  const version = new Date(now).toISOString().slice(0, 16).replace(/[-:]/g, "").replace("T", "_");
  return {
    upload: script("./scripts/upload --to alpine/3.22/amd64/default incus.tar.xz rootfs.squashfs"),
    presign: script(
      `./scripts/presign images/alpine/3.22/amd64/default/${version}/incus.tar.xz images/alpine/3.22/amd64/default/${version}/rootfs.squashfs`,
    ),
    launch: { client: "incus", kind: "", line: `incus launch ${quote(`${remote}:alpine/3.22`)}` },
  };
}

/** @param {string} product `<stream>/<os>:<release>:<arch>:<variant>` @param {string} version @returns {Command[]} the command that gives its publisher details */
export function explain(product, version) {
  const path = `${product.replaceAll(":", "/")}/${version}`;
  return printable(path) ? [script(`./scripts/admin show ${quote(path)}`)] : [];
}

/** Where the daemons keep a catalog for an hour. */
export const CACHES = [
  { client: "incus", daemon: "Incus", line: "sudo sh -c 'rm -rf /var/cache/incus/*'" },
  { client: "lxc", daemon: "LXD from the snap", line: "sudo sh -c 'rm -rf /var/snap/lxd/common/lxd/cache/*'" },
  { client: "lxc", daemon: "LXD from a package", line: "sudo sh -c 'rm -rf /var/cache/lxd/*'" },
];

/**
 * Fetches one version, bypassing the daemon's cache: the client reads the catalog and passes the image on.
 * @param {string} client @param {string} remote @param {string} fingerprint @returns {Command}
 */
export const fetchNow = (client, remote, fingerprint) => ({
  client,
  kind: "",
  line: `${client} image copy --mode=relay ${quote(`${remote}:${fingerprint}`)} local:`,
});

/**
 * The shortest alias that refers only to this product; with the architecture (clients always add that form) if it is shared.
 * @param {Product} product @param {Map<string, number>} claims how many products claim each alias
 */
export function launchAlias(product, claims) {
  const shortest = shortestAlias(product);
  if (!shortest) return "";
  return (claims.get(shortest) ?? 0) > 1 ? `${shortest}/${product.arch}` : shortest;
}

/**
 * @param {Product} product @param {string} remote @param {Map<string, number>} claims
 * @returns {Command[]} for each client and kind that the newest version serves
 */
export function launch(product, remote, claims) {
  const alias = launchAlias(product, claims);
  if (!alias || !printable(alias)) return [];
  return product.kinds.flatMap((kind) =>
    ["incus", "lxc"]
      .filter((client) => product.versions[0].images.some((i) => i.kind === kind && i.clients.includes(client)))
      .map((client) => ({
        client,
        kind,
        line: `${client} launch ${quote(`${remote}:${alias}`)}${kind === "vm" ? " --vm" : ""}`,
      })),
  );
}
