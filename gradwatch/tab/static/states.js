/**
 * What stands in place of the page while there is nothing to show.
 */

import { element, fill } from "./dom.js";

/** Runs are being read. */
export function showLoading(root) {
  fill(root, element("p", { class: "gw-state", role: "status" }, "Reading the runs …"));
}

/** No run of gradwatch was found: says what to add to a training. */
export function showEmpty(root) {
  fill(
    root,
    element(
      "section",
      { class: "gw-state" },
      element("h2", {}, "No run of gradwatch here yet"),
      element(
        "p",
        {},
        "Add a line to your training, and start it with this log directory. A run shows up here " +
          "with its first observed steps.",
      ),
      element("h3", {}, "PyTorch"),
      element("pre", {}, 'watch = gradwatch.watch(model, optimizer, log_dir="runs/first")'),
      element("h3", {}, "Keras"),
      element(
        "pre",
        {},
        'model.fit(x, y, callbacks=[gradwatch.keras.GradWatch("runs/first")])',
      ),
    ),
  );
}

/**
 * Something could not be read.
 *
 * @param {HTMLElement} root
 * @param {string} sentence What, and what to do.
 * @param {function(): void} retry
 */
export function showTrouble(root, sentence, retry) {
  fill(
    root,
    element(
      "section",
      { class: "gw-state", role: "alert" },
      element("p", {}, sentence),
      element("button", { type: "button", onclick: retry }, "Try again"),
    ),
  );
}
