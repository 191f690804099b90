/**
 * Rule panel: the page of a rule, in a dialog over the page.
 */

import { element, fill } from "./dom.js";
import { clipped, inWords, printable } from "./words.js";

/**
 * The dialog.
 *
 * @param {HTMLElement} root Where it goes; anything in it is replaced.
 * @returns {{open: function(object): void, close: function(): void}} `open` takes what the route
 *   `rule` answers; when it closes, the focus goes back to where it was.
 */
export function createRulePanel(root) {
  const title = element("h2", { id: "gw-rule-title", tabindex: "-1" });
  const content = element("div", { class: "gw-rule-content" });
  const button = element("button", { type: "button", class: "gw-close", onclick: close }, "Close");
  const head = element("div", { class: "gw-rule-head" }, title, button);
  const dialog = element(
    "dialog",
    { class: "gw-rule", "aria-labelledby": "gw-rule-title", onclose: giveBackFocus },
    head,
    content,
  );
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) close();
  });
  fill(root, dialog);
  let before = null;

  function open(rule) {
    fill(title, `${clipped(rule.code, 40)} ${inWords(rule.name)}`);
    const summary = element("p", { class: "gw-sentence" }, printable(rule.summary));
    fill(content, summary, ...rule.sections.flatMap(sectionView));
    if (!dialog.open) {
      before = document.activeElement;
      dialog.showModal();
    }
    content.scrollTop = 0;
    title.focus();
  }

  function close() {
    dialog.close();
  }

  function giveBackFocus() {
    if (before?.isConnected) before.focus();
    before = null;
  }

  return { open, close };
}

/**
 * Blocks with items that follow each other in one list.
 *
 * @param {Array<{kind: string, text: string}>} blocks
 * @returns {Array<{kind: string, texts: string[]}>}
 */
export function gathered(blocks) {
  const groups = [];
  for (const { kind, text } of blocks) {
    const last = groups.at(-1);
    if (kind === "item" && last?.kind === "item") last.texts.push(text);
    else groups.push({ kind, texts: [text] });
  }
  return groups;
}

function sectionView({ title, blocks }) {
  return [element("h3", {}, printable(title)), ...gathered(blocks).map(blockView)];
}

function blockView({ kind, texts }) {
  const [text] = texts.map(printable);
  if (kind === "item")
    return element("ul", {}, ...texts.map((item) => element("li", {}, printable(item))));
  if (kind === "code") return element("pre", { tabindex: "0" }, element("code", {}, text));
  return element("p", kind === "formula" ? { class: "gw-formula" } : {}, text);
}
