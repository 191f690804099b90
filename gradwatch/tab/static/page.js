/**
 * Page: what is shown of which run, and what happens when the user chooses something.
 */

import { createComparison } from "./comparison.js";
import { createControls } from "./controls.js";
import { element, fill } from "./dom.js";
import { createFindings } from "./findings.js";
import { LEFT } from "./geometry.js";
import { createHeatmap } from "./heatmap.js";
import { createLegend } from "./legend.js";
import { createProfile } from "./profile.js";
import { createRulePanel } from "./rule_panel.js";
import { domain } from "./scale.js";
import { showEmpty, showLoading, showTrouble } from "./states.js";
import { createVerdict } from "./verdict.js";
import { filtered, load, save, zoomed } from "./view.js";
import { printable } from "./words.js";

const SIDES = ["run", "other"];

/**
 * The page.
 *
 * @param {HTMLElement} root Element of class `gradwatch`.
 * @param {object} source See `serverSource`.
 * @returns {{start: function(): Promise<void>, refresh: function(): Promise<void>,
 *   redraw: function(): void}} `refresh` reads again what has changed, and keeps the view.
 */
export function createPage(root, source) {
  const view = load();
  const parts = pageElements(root);
  const overviews = { run: null, other: null };
  const grids = { run: null, other: null };
  let tokens = new Map();
  let request = 0;
  let profileRequest = 0;

  const verdict = createVerdict(parts.verdict);
  const rulePanel = createRulePanel(parts.rule);
  const announce = (text) => fill(parts.live, text);
  const onLayer = (name) => pin(name, view.step);
  const findings = createFindings(parts.findings, { onLayer, onRule: showRule, announce });
  const profile = createProfile(parts.profile, { onLayer });
  const comparison = createComparison(parts.comparison, {
    onLayer,
    onStep: (step) => pin(view.layer, step),
  });
  const legend = createLegend(parts.legend);
  const controls = createControls(parts.controls, {
    onRun: (name) => choose({ run: name, other: view.other === name ? null : view.other }),
    onOther: (name) => choose({ other: name }),
    onStatistic: (name) => choose({ statistic: name }),
    onFilter: filter,
    onZoom: zoom,
  });
  const heatmaps = Object.fromEntries(
    SIDES.map((side) => [
      side,
      createHeatmap(parts[side], {
        onPin: pin,
        onZoom: ({ rows, steps }) => choose({ rows: within(rows), steps: steps ?? view.steps }),
        onKey: zoom,
        onCursor: announce,
      }),
    ]),
  );

  async function start() {
    showLoading(parts.state);
    parts.content.hidden = true;
    await refresh();
  }

  async function refresh() {
    try {
      const { runs } = await source.runs();
      const changed = runs.some(({ name, token }) => tokens.get(name) !== token);
      if (!changed && runs.length === tokens.size && runs.length) return;
      const before = tokens;
      tokens = new Map(runs.map(({ name, token }) => [name, token]));
      if (runs.length === 0) {
        parts.content.hidden = true;
        showEmpty(parts.state);
        return;
      }
      settle(runs.map(({ name }) => name));
      const isNews = (name) => name !== null && before.get(name) !== tokens.get(name);
      if (isNews(view.run) || isNews(view.other)) await showAll();
      else controls.showRuns([...tokens.keys()], view);
    } catch (error) {
      if (parts.content.hidden) fail(error);
      else announce(`The runs could not be read again: ${error.message}`);
    }
  }

  function settle(names) {
    if (!names.includes(view.run)) view.run = names[0];
    if (!names.includes(view.other) || view.other === view.run) view.other = null;
  }

  async function choose(changes) {
    const isOtherRun = "run" in changes || "other" in changes;
    if ("run" in changes) Object.assign(view, { rows: null, steps: null, step: null, layer: null });
    Object.assign(view, changes);
    save(view);
    await (isOtherRun ? showAll() : guarded(showGrids));
  }

  function filter(text) {
    Object.assign(view, { filter: text, rows: null });
    save(view);
    controls.tellFilter(filtered(overviews.run.layers, text).trouble);
    redraw();
  }

  async function showAll() {
    await guarded(async (isCurrent) => {
      const [run, other] = await Promise.all(
        SIDES.map((side) => (view[side] === null ? null : source.run(view[side]))),
      );
      if (!isCurrent()) return;
      Object.assign(overviews, { run, other });
      fill(parts.state);
      parts.content.hidden = false;
      controls.showRuns([...tokens.keys()], view);
      verdict.show(run);
      findings.show(run);
      await showGrids(isCurrent);
      await showComparison(isCurrent);
    });
  }

  async function showGrids(isCurrent) {
    const { statistics, default_statistic: usual, layers } = overviews.run;
    const chosen = statistics.find(({ name }) => name === view.statistic);
    const statistic = chosen ?? statistics.find(({ name }) => name === usual) ?? statistics[0];
    controls.showStatistics(statistics, statistic?.name ?? null);
    const { trouble } = filtered(layers, view.filter);
    controls.tellFilter(trouble);
    controls.showZoom(view.rows !== null || view.steps !== null);
    parts.heatmaps.hidden = statistic === undefined;
    parts.unseen.hidden = statistic !== undefined;
    if (statistic === undefined) return profile.show(null, overviews.run);
    const read = SIDES.map((side) => (overviews[side] === null ? null : grid(side, statistic)));
    const [run, other] = await Promise.all(read);
    if (!isCurrent()) return undefined;
    Object.assign(grids, { run, other });
    draw(statistic);
    return showProfile();
  }

  async function grid(side, statistic) {
    if (!overviews[side].statistics.some(({ name }) => name === statistic.name)) return null;
    const [first, last] = view.steps ?? [];
    const wide = Math.max(root.clientWidth - LEFT, 200) * (window.devicePixelRatio || 1);
    const columns = Math.min(Math.max(Math.round(wide), 64), 2000);
    const { arrays } = await source.heatmap(view[side], statistic.name, { columns, first, last });
    const { values, states, first_steps: from, last_steps: to, counts } = arrays;
    return {
      values: values.values,
      states: states.values,
      columns: values.shape[1],
      firstSteps: from.values,
      lastSteps: to.values,
      counts: counts.values,
      statistic,
    };
  }

  function draw(statistic) {
    const present = SIDES.filter((side) => grids[side] !== null && grids[side].columns > 0);
    const shared = domain(present.map((side) => grids[side].values), statistic.scale);
    const kinds = new Set();
    parts.heatmaps.classList.toggle("gw-two", overviews.other !== null);
    for (const side of SIDES) {
      parts[side].hidden = !present.includes(side);
      if (parts[side].hidden) continue;
      const { layers, findings: cards } = overviews[side];
      const shown = {
        title: `${statistic.title} · ${printable(view[side])}`,
        grid: grids[side],
        rows: zoomedRows(layers),
        layers,
        statistic,
        scale: statistic.scale,
        domain: shared,
        severities: severitiesOf(cards),
      };
      for (const kind of heatmaps[side].show(shown)) kinds.add(kind);
      heatmaps[side].pin(view.layer, view.step);
    }
    legend.show(statistic, shared, kinds);
    performance.mark("gradwatch heatmap drawn"); // for those who measure the page
  }

  function zoomedRows(layers) {
    const { rows } = filtered(layers, view.filter);
    if (rows.length === 0) return layers.map((_, row) => row);
    if (view.rows === null) return rows;
    const part = rows.slice(view.rows[0], view.rows[1] + 1);
    return part.length ? part : rows;
  }

  function within(rows) {
    if (rows === null) return view.rows;
    const start = view.rows === null ? 0 : view.rows[0];
    return [start + rows[0], start + rows[1]];
  }

  // A click may ask for another profile while heatmaps are on their way: each has its own count.
  async function showProfile() {
    profileRequest += 1;
    const own = profileRequest;
    const overview = overviews.run;
    const step = view.step ?? overview.last_step;
    const found = step === null ? null : await source.profile(overview.name, step);
    if (own !== profileRequest || overview !== overviews.run) return;
    profile.show(found, overview);
    select(view.layer);
  }

  async function showComparison(isCurrent) {
    fill(parts.incomparable);
    if (view.other === null) return comparison.show(null);
    try {
      const found = await source.compare(view.run, view.other);
      return isCurrent() ? comparison.show(found) : undefined;
    } catch (error) {
      comparison.show(null);
      return fill(parts.incomparable, error.message);
    }
  }

  async function pin(layer, step) {
    Object.assign(view, { layer, step });
    save(view);
    for (const side of SIDES) heatmaps[side].pin(layer, step);
    try {
      await showProfile();
    } catch (error) {
      announce(error.message);
    }
  }

  function select(layer) {
    findings.select(layer);
    profile.select(layer);
  }

  async function showRule(code) {
    try {
      rulePanel.open(await source.rule(code));
    } catch (error) {
      announce(error.message);
    }
  }

  function zoom(key) {
    if (key === "0") return choose({ rows: null, steps: null });
    const { first_step: first, last_step: last } = overviews.run;
    if (first === null) return undefined;
    const [from, to] = view.steps ?? [first, last];
    const at = view.step === null ? (from + to) / 2 : Math.min(Math.max(view.step, from), to);
    return choose({ steps: zoomed([from, to], key === "+" ? 0.5 : 2, at, [first, last]) });
  }

  // Answers that were overtaken by a later choice are not shown.
  async function guarded(show) {
    request += 1;
    const own = request;
    try {
      await show(() => own === request);
    } catch (error) {
      if (own === request) fail(error);
    }
  }

  function fail(error) {
    parts.content.hidden = true;
    tokens = new Map();
    showTrouble(parts.state, error.message, start);
  }

  function redraw() {
    if (grids.run === null || parts.content.hidden) return;
    draw(grids.run.statistic);
    profile.redraw();
  }

  return { start, refresh, redraw };
}

function severitiesOf(cards) {
  const found = new Map();
  for (const { layers, severity, open } of cards)
    if (open) for (const name of layers) if (!found.has(name)) found.set(name, severity);
  return found; // the worst first, so the first is the worst
}

function pageElements(root) {
  const box = (name) => element("div", { class: `gw-${name}-box` });
  const parts = {
    state: box("state"),
    verdict: box("verdict"),
    controls: box("controls"),
    run: box("heatmap"),
    other: box("heatmap"),
    legend: box("legend"),
    profile: box("profile"),
    findings: box("findings"),
    comparison: box("comparison"),
    incomparable: element("p", { class: "gw-incomparable", role: "status" }),
    rule: box("rule"),
    live: element("p", { class: "gw-live", "aria-live": "polite" }),
    unseen: element("p", { class: "gw-state", hidden: true }, "No step of this run is stored yet."),
  };
  const pair = element("div", { class: "gw-pair" }, parts.run, parts.other);
  const drawn = { class: "gw-heatmaps", "aria-label": "Heatmap" };
  parts.heatmaps = element("section", drawn, pair, parts.legend);
  const left = element("div", { class: "gw-left" }, parts.unseen, parts.heatmaps, parts.profile);
  const { comparison, incomparable, findings } = parts;
  const right = element("div", { class: "gw-right" }, comparison, incomparable, findings);
  const columns = element("div", { class: "gw-columns" }, left, right);
  parts.content = element("main", { class: "gw-content" }, parts.verdict, parts.controls, columns);
  fill(root, parts.state, parts.content, parts.rule, parts.live);
  return parts;
}
