/**
 * Page: what is shown of which run, and what happens when the user chooses something.
 */

import { createComparison } from "./comparison.js";
import { createControls } from "./controls.js";
import { fill } from "./dom.js";
import { createFindings } from "./findings.js";
import { createFolds } from "./folds.js";
import { createGrids, readGrid } from "./grids.js";
import { columnsIn, createHeatmapPair, SIDES } from "./heatmap_pair.js";
import { pageElements } from "./layout.js";
import { oneAtATime } from "./one_at_a_time.js";
import { createProfile } from "./profile.js";
import { createRulePanel } from "./rule_panel.js";
import { showEmpty, showLoading, showTrouble } from "./states.js";
import { createVerdict } from "./verdict.js";
import { load, save } from "./view.js";

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
  const grids = createGrids(view);
  let statistic = null;
  let tokens = new Map();
  let isStale = true; // the overviews are not those of the view, or on their way
  let request = 0;
  let profileRequest = 0;

  const folds = createFolds(root);
  const verdict = createVerdict(parts.verdict, folds);
  const rulePanel = createRulePanel(parts.rule);
  const announce = (text) => fill(parts.live, text);
  const onLayer = (name) => pin(name, view.step);
  const onStep = (step) => pin(view.layer, step);
  const findings = createFindings(parts.findings, { onLayer, onRule: showRule, announce, folds });
  const profile = createProfile(parts.profile, { onLayer, folds });
  const comparison = createComparison(parts.comparison, { onLayer, onStep });
  const controls = createControls(parts.controls, {
    onRun: (name) => choose({ run: name, other: view.other === name ? null : view.other }),
    onOther: (name) => choose({ other: name }),
    onStatistic: (name) => choose({ statistic: name }),
    onFilter: filter,
    onZoom: zoom,
  });
  const heatmaps = createHeatmapPair(parts, {
    onPin: pin,
    onZoom: ({ rows, steps }) => choose({ rows: rows ?? view.rows, steps: steps ?? view.steps }),
    onWheel: turn,
    onKey: zoom,
    onCursor: announce,
  });
  const showStepsAgain = oneAtATime(showChosen);

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
    if ("run" in changes) Object.assign(view, { rows: null, steps: null, step: null, layer: null });
    Object.assign(view, changes);
    save(view);
    if ("run" in changes || "other" in changes) isStale = true;
    await showChosen();
  }

  function showChosen() {
    return isStale ? showAll() : guarded(showGrids);
  }

  function filter(text) {
    Object.assign(view, { filter: text, rows: null });
    save(view);
    redraw();
  }

  async function showAll() {
    isStale = true;
    await guarded(async (isCurrent) => {
      const [run, other] = await Promise.all(
        SIDES.map((side) => (view[side] === null ? null : source.run(view[side]))),
      );
      if (!isCurrent()) return;
      Object.assign(overviews, { run, other });
      isStale = false;
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
    const { statistics, default_statistic: usual } = overviews.run;
    const chosen = statistics.find(({ name }) => name === view.statistic);
    const wanted = chosen ?? statistics.find(({ name }) => name === usual) ?? statistics[0];
    controls.showStatistics(statistics, wanted?.name ?? null);
    parts.heatmaps.hidden = wanted === undefined;
    parts.unseen.hidden = wanted !== undefined;
    if (wanted === undefined) return profile.show(null, overviews.run);
    parts.heatmaps.classList.toggle("gw-two", overviews.other !== null);
    const read = SIDES.map((side) => grid(side, wanted));
    const [run, other] = await Promise.all(read);
    if (!isCurrent()) return undefined;
    statistic = wanted;
    grids.put(overviews, { run, other });
    draw();
    return showProfile();
  }

  async function grid(side, wanted) {
    const isObserved = ({ name }) => name === wanted.name;
    if (!overviews[side]?.statistics.some(isObserved)) return null;
    const range = { columns: columnsIn(parts.pair), steps: view.steps };
    return readGrid(source, view[side], wanted, range);
  }

  function draw() {
    controls.tellFilter(grids.trouble());
    controls.showZoom(view.rows !== null || view.steps !== null);
    heatmaps.show(statistic, { run: grids.of("run"), other: grids.of("other") });
    heatmaps.pin(view.layer, view.step);
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
    heatmaps.pin(layer, step);
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
    const found = grids.nearer("run", { factor: key === "+" ? 0.5 : 2, across: null, down: null });
    return found === null ? undefined : choose(found);
  }

  function turn(side, change) {
    const { rows, steps } = grids.nearer(side, change);
    const isNew = (name, range) => String(view[name]) !== String(range);
    const [isRows, isSteps] = [isNew("rows", rows), isNew("steps", steps)];
    if (!isRows && !isSteps) return false;
    Object.assign(view, { rows, steps });
    save(view);
    if (isRows) draw();
    if (isSteps) showStepsAgain();
    return true;
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
    if (statistic === null || parts.content.hidden || parts.heatmaps.hidden) return;
    draw();
    profile.redraw();
  }

  return { start, refresh, redraw };
}
