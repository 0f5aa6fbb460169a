// The only way this page makes elements. Strings become text nodes: markup in a name stays text.

import { age } from "./model.js";

/** @typedef {Node | string | null | false | undefined} Child */

/**
 * @param {string} tag "name.class.class" @param {Record<string, any>} [props] attributes; functions are listeners
 * @param {...Child} children
 * @returns {HTMLElement}
 */
export function h(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length > 0) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value !== false && value !== undefined) element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== false && child !== undefined));
  return element;
}

/** @param {string} id @returns {any} an element of page.html */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`page.html has no element with the id ${id}`);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} id one of the symbols in page.html */
export function icon(id) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#${id}`);
  svg.append(use);
  return svg;
}

/**
 * An age that main.js keeps up to date.
 * @param {number} when @param {number} now
 */
export const moment = (when, now) => h("time", { datetime: new Date(when).toISOString() }, age(when, now));

/** @param {string} message read out by screen readers */
export function announce(message) {
  byId("announcer").textContent = message;
}

/** @param {string} value @returns {Promise<boolean>} */
async function toClipboard(value) {
  try {
    await navigator.clipboard.writeText(value);
    return true;
  } catch {
    // Not granted, or no clipboard on an insecure origin: the button says so, and the text can still be selected.
    return false;
  }
}

/** @param {string} value @param {string} what names it for a screen reader @returns {HTMLElement} */
export function copyButton(value, what) {
  const label = h("span", {}, "Copy");
  const button = h("button.copy", { type: "button", "aria-label": `Copy ${what}` }, icon("i-copy"), label);
  button.addEventListener("click", async () => {
    const done = await toClipboard(value);
    label.textContent = done ? "Copied" : "Select it";
    button.classList.toggle("done", done);
    announce(done ? `Copied ${what}` : `The browser did not allow copying ${what}`);
    setTimeout(() => {
      label.textContent = "Copy";
      button.classList.remove("done");
    }, 1600);
  });
  return button;
}

/** @param {import("./commands.js").Command} command @param {string} what @returns {HTMLElement} */
export function commandLine({ client, line }, what) {
  return h(
    "div.command",
    {},
    h("code", {}, ...line.split(" ").flatMap((word, place) => [place > 0 && " ", h(word === client ? "b" : "span", {}, word)])),
    copyButton(line, what),
  );
}
