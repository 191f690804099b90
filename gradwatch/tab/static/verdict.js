/**
 * Verdict: the answer to "is my net learning in every layer?", and what the answer rests on.
 */

import { element, fill } from "./dom.js";
import { clipped, counted, stepRange } from "./words.js";

const FRAMEWORKS = { torch: "PyTorch", keras: "Keras" };
const GLYPHS = { error: "×", warning: "!", notice: "i", ok: "✓", unknown: "?" };

/**
 * The answer in a word or two, and the kind of mark that goes with it.
 *
 * @param {object} overview A run, as the route `run` answers it.
 * @returns {{mark: "error"|"warning"|"notice"|"ok"|"unknown", words: string}}
 */
export function answer({ severity, judged, finished, limits }) {
  if (severity === "error") return { mark: "error", words: "No" };
  if (severity === "warning") return { mark: "warning", words: "Not well" };
  if (!judged) return { mark: "unknown", words: finished ? "Cannot be said" : "Too early to say" };
  const words = limits.length ? "Yes, where it is observed" : "Yes";
  return { mark: severity === "notice" ? "notice" : "ok", words };
}

/**
 * What the verdict rests on, in a few words each.
 *
 * @param {object} overview A run, as the route `run` answers it.
 * @returns {string[]}
 */
export function facts(overview) {
  const { framework, layers, samples, sessions, finished } = overview;
  return [
    Object.hasOwn(FRAMEWORKS, framework) ? FRAMEWORKS[framework] : clipped(framework, 40),
    counted(layers.length, "layer"),
    stepRange(overview.first_step, overview.last_step),
    counted(samples, "sample"),
    ...(sessions > 1 ? [`resumed ${sessions === 2 ? "once" : `${sessions - 1} times`}`] : []),
    finished ? "finished" : "still running or cut off",
  ];
}

/**
 * A coloured shape with a sign in it, for those who do not see colours: it says nothing aloud.
 *
 * @param {"error"|"warning"|"notice"|"ok"|"unknown"} kind
 * @returns {HTMLElement}
 */
export function mark(kind) {
  const known = Object.hasOwn(GLYPHS, kind) ? kind : "unknown";
  return element("span", { class: `gw-mark gw-${known}`, "aria-hidden": "true" }, GLYPHS[known]);
}

/**
 * The panel at the top of the page.
 *
 * @param {HTMLElement} root Where it goes; anything in it is replaced.
 * @param {object} folds See `createFolds`.
 * @returns {{show: function(object|null): void}}
 */
export function createVerdict(root, folds) {
  const line = element("p", { class: "gw-answer" });
  const sentence = element("p", { class: "gw-sentence" });
  const list = element("ul", { class: "gw-facts", "aria-label": "What this rests on" });
  const limits = createFold("not observed", "gw-limits", folds);
  const troubles = createFold("could not be read", "gw-troubles", folds);
  const section = element(
    "section",
    { class: "gw-verdict", "aria-label": "Verdict", hidden: true },
    line,
    sentence,
    list,
    limits.root,
    troubles.root,
  );
  fill(root, section);

  function show(overview) {
    section.hidden = overview === null;
    if (overview === null) return;
    const { mark: kind, words } = answer(overview);
    const said = element("strong", { class: `gw-text-${kind}` }, `${words}.`);
    fill(line, mark(kind), element("span", {}, "Is the net learning in every layer?"), said);
    fill(sentence, clipped(overview.verdict));
    fill(list, ...facts(overview).map((fact) => element("li", {}, fact)));
    limits.show(overview.limits);
    troubles.show(overview.troubles);
  }

  return { show };
}

/** Sentences folded under their count; hidden where there are none. */
function createFold(about, className, folds) {
  const summary = element("summary");
  const list = element("ul");
  const root = element("details", { class: `gw-fold ${className}`, hidden: true }, summary, list);
  folds.follow(root, about, false);

  function show(sentences) {
    root.hidden = sentences.length === 0;
    fill(summary, `${counted(sentences.length, "thing")} ${about}`);
    fill(list, ...sentences.map((sentence) => element("li", {}, clipped(sentence))));
  }

  return { root, show };
}
