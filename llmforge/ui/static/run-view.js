// One run: what state it is in, its curves, and tabs with everything else.

import { ask, runPath } from "./api.js";
import { drawCheckpoints } from "./checkpoints-tab.js";
import { stateMark } from "./columns.js";
import { curvesPanel } from "./curves-panel.js";
import { fill, h } from "./dom.js";
import { factsOf } from "./facts.js";
import { duration, number } from "./format.js";
import { drawLog } from "./log-tab.js";
import { go, note, place } from "./router.js";
import { drawSamples, drawTests } from "./samples-tab.js";
import { choose, chosen, rows } from "./store.js";
import { tabs } from "./tabs.js";

/** Show a run in `main`; returns what the page may ask of the view. */
export async function runView(main, id, {reveal, signal}) {
  let run = rows.get(id), isWhole = false; // the table's row is enough for a beginning
  let panel = null, moreLog = null;
  const title = h("div", {class: "title"}), tiles = h("dl", {class: "tiles"}), problems = h("div");

  const guarded = draw => box => {
    draw(box, id).catch(error => fill(box, h("p", {class: "problem", role: "alert"}, error.message)));
  };
  const items = [
    {key: "curves", title: "Curves", draw: box => {
      panel = curvesPanel([{id, label: id}]);
      fill(box, panel.element);
      return () => { panel?.close(); panel = null; };
    }},
    {key: "facts", title: "Facts", draw: box => { if (isWhole) fill(box, factsOf(run)); }},
    {key: "checkpoints", title: "Checkpoints", draw: guarded(drawCheckpoints)},
    {key: "samples", title: "Samples", draw: guarded(drawSamples)},
    {key: "tests", title: "Tests", draw: guarded(drawTests)},
    {key: "recipe", title: "Recipe", draw: guarded(drawRecipe)},
    {key: "log", title: "Log", draw: box => {
      moreLog = drawLog(box, id);
      return () => { moreLog = null; };
    }},
  ];

  function drawHead() {
    const timing = run.last_timing ?? {};
    const isRunning = run.state === "running";
    fill(title, h("h1", {}, run.name && run.name !== id ? [run.name, " ", h("span", {class: "faint mono"}, id)] : id), stateMark(run.state),
      h("span", {class: "faint"}, isRunning ? "" : run.why), h("button", {type: "button", onclick: () => {
        choose(id);
        drawHead();
      }}, chosen.has(id) ? "Selected" : "Select to compare"));
    fill(tiles, Object.entries({
      step: run.total_steps ? `${number(run.step)} of ${number(run.total_steps)}` : number(run.step),
      "best loss": run.loss === null ? "" : `${number(run.loss)}${run.best?.step ? ` at ${number(run.best.step)}` : ""}`,
      perplexity: run.perplexity === null ? "" : number(run.perplexity, 2),
      "tokens per second": timing.tokens_per_second ? number(Math.round(timing.tokens_per_second)) : "",
      took: duration(run.duration),
      left: isRunning && timing.eta_seconds ? duration(timing.eta_seconds) : "",
    }).filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  async function reread(options) {
    run = await ask(runPath(id), {}, options);
    isWhole = true;
    drawHead();
    fill(problems, (run.problems ?? []).map(text => h("p", {class: "problem"}, text)));
    if (strip?.current() === "facts") strip.show("facts");
  }

  let strip = null;
  if (!run) await reread({signal});
  strip = tabs(items, place().query.get("tab") ?? "curves", key => note({tab: key === "curves" ? "" : key}));
  drawHead();
  fill(main, title, tiles, problems, strip.element);
  reveal();
  if (!isWhole) {
    try { await reread({signal}); }
    catch (error) { strip.close(); throw error; }
  }

  const on = {
    again: () => { reread(); panel?.reread(); moreLog?.(); },
    rows: changed => { if (changed.has(id)) { reread(); panel?.takeStates(); } },
    points: body => panel?.take(body),
    reset: () => { reread(); panel?.reread(); },
    log: () => moreLog?.(),
    files: ({changed}) => {
      const shown = strip.current();
      const concerns = {checkpoints: ["checkpoints", "uploads", "deployments"], samples: ["samples"], tests: ["tests"]}[shown] ?? [];
      if (concerns.some(name => changed.includes(name))) strip.show(shown);
    },
  };

  const neighbour = by => {
    const ids = [...rows.keys()];
    const next = ids[ids.indexOf(id) + by];
    if (next) go("run", next);
  };
  return {
    title: id,
    exported: {run: [id]},
    live: {runs: [id], on, after: panel?.ready},
    keys: {
      j: () => neighbour(1), k: () => neighbour(-1), x: () => { choose(id); drawHead(); },
      c: () => go("compare", "", {run: [...new Set([...chosen, id])]}), Escape: () => go("runs"),
    },
    close: () => strip.close(),
  };
}

async function drawRecipe(panel, id) {
  const {text, problems} = await ask(runPath(id, "recipe"));
  fill(panel, problems.map(line => h("p", {class: "problem"}, line)),
    text ? h("pre", {class: "text"}, text) : h("p", {class: "faint"}, "The run has no recipe file."));
}
