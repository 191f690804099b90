/**
 * DOM elements from untrusted text: children become text nodes, so nothing in them is ever parsed.
 */

/**
 * A new element.
 *
 * @param {string} tag Its tag name, a literal of the caller.
 * @param {Object<string, unknown>} attributes Attribute names to values; `class` too. A value of
 *   null, undefined or false leaves the attribute out, true sets it empty; functions under `on...`
 *   names are listeners. Names are literals of the caller; never pass a URL or a style from a run.
 * @param {...(Node|string|number|null)} children Nodes, or text; null is left out.
 * @returns {HTMLElement}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.replace(/^on/, ""), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false)
      made.setAttribute(name, String(value));
  }
  made.append(...children.filter((child) => child !== null).map(asNode));
  return made;
}

/**
 * Put other children in place of an element's own.
 *
 * @param {Element} parent
 * @param {...(Node|string|number|null)} children As of `element`.
 */
export function fill(parent, ...children) {
  parent.replaceChildren(...children.filter((child) => child !== null).map(asNode));
}

function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}
