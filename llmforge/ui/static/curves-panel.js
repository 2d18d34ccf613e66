// The charts of one run or of several over each other, with what can be chosen about them.

import { ask, runPath, snapshot } from "./api.js";
import { chart } from "./chart.js";
import { append, stepAt, withDerived } from "./curve-data.js";
import { fill, h, notify, oncePerFrame } from "./dom.js";
import { chartsOf, DERIVED, MAIN_METRICS, neededFor, shownAtFirst } from "./metric-groups.js";
import { note, place } from "./router.js";

const POINTS = 800; // of a curve: about as many as a chart has pixels
const TOO_MANY = 400; // points that arrived before the server is asked to thin them

/** Ask for the main curves of a run; while the answer comes, other things of it can be read. */
export function mainCurves(id) {
  if (place().query.get("zoom")) return null;
  const answer = ask(runPath(id, "curves"), {metric: MAIN_METRICS, points: POINTS});
  answer.catch(() => {}); // whoever waits for it is told
  return answer;
}

/**
 * Return the panel for `runs`: {id, label, metrics (names), early (answer of `mainCurves`)}. It
 * keeps its choices in the address.
 */
export function curvesPanel(runs) {
  const {query} = place();
  const choice = {
    axis: ["tokens", "time"].find(axis => axis === query.get("x")) ?? "step",
    log: new Set((query.get("log") ?? "").split(",").filter(Boolean)),
    smoothing: Number(query.get("smooth") ?? 2) / 100 || 0,
  };
  const charts = chartsOf([...new Set(runs.flatMap(run => run.metrics))]);
  let shown = query.get("charts")?.split(",") ?? shownAtFirst(charts);
  if (!shown.length) shown = charts.slice(0, 4).map(item => item.key);
  let zoom = (query.get("zoom") ?? "").split(":").map(Number);
  if (zoom.length !== 2 || !(zoom[1] > zoom[0])) zoom = null;
  const data = new Map(runs.map(run => [run.id, {}]));
  const drawn = new Map();
  let arrived = 0, asking = null;

  const grid = h("div", {class: "charts"});
  const problem = h("p", {class: "problem", role: "alert"});
  const reset = h("button", {type: "button", onclick: () => setZoom(null, null)}, "Reset zoom");
  const element = h("div", {}, bar(), problem, grid);

  function bar() {
    const axis = h("select", {onchange: event => {
      choice.axis = event.target.value;
      note({x: choice.axis === "step" ? "" : choice.axis, zoom: ""});
      const wasZoomed = zoom;
      zoom = null;
      if (wasZoomed) read(); else redraw();
    }}, Object.entries({step: "steps", tokens: "tokens", time: "time trained"}).map(([value, text]) =>
      h("option", {value, selected: value === choice.axis}, text)));
    const smoothing = h("input", {type: "range", min: 0, max: 20, step: 1, value: 100 * choice.smoothing,
      oninput: event => {
        choice.smoothing = event.target.value / 100;
        note({smooth: event.target.value === "2" ? "" : event.target.value});
        redraw();
      }});
    const log = h("input", {type: "checkbox", checked: choice.log.has("all"), onchange: event => {
      choice.log = new Set(event.target.checked ? ["all"] : []);
      note({log: [...choice.log].join(",")});
      redraw();
    }});
    return h("div", {class: "bar"}, h("label", {}, "By ", axis), h("label", {}, log, "Log scale"),
      h("label", {}, "Smoothing ", smoothing), reset, h("span", {class: "grow"}), chooser());
  }

  function chooser() {
    const box = h("div", {}, charts.map(item => h("label", {}, h("input", {
      type: "checkbox", checked: shown.includes(item.key), onchange: event => {
        shown = event.target.checked ? [...shown, item.key] : shown.filter(key => key !== item.key);
        note({charts: shown.join(",")});
        arrange();
        read();
      }}), " ", item.title)));
    return h("details", {class: "menu"}, h("summary", {class: "button"}, "Charts"), box);
  }

  const chosen = () => charts.filter(item => shown.includes(item.key));

  function arrange() {
    for (const [key, item] of drawn) if (!shown.includes(key)) { item.close(); drawn.delete(key); }
    for (const item of chosen()) if (!drawn.has(item.key)) drawn.set(item.key, chart({
      title: item.title, sync: "curves", onZoom: setZoom,
    }));
    fill(grid, chosen().map(item => drawn.get(item.key).element));
  }

  function setZoom(from, to) {
    zoom = from === null ? null : [from, to];
    note({zoom: zoom ? zoom.map(value => Number(value.toPrecision(8))).join(":") : ""});
    redraw();
    read();
  }

  /** Ask for the points of what is in sight. */
  async function read() {
    asking?.abort();
    const mine = asking = new AbortController();
    const needed = neededFor(chosen());
    if (!needed.length) return;
    // A stretch of tokens or time says which steps it is only once the whole curve is known.
    const isBlind = zoom && choice.axis !== "step" && !Object.keys(data.get(runs[0].id)).length;
    try {
      await Promise.all(runs.map(async run => {
        const stretch = zoom && !isBlind ? steps(run.id) : {};
        const isEarly = run.early && needed.every(name => MAIN_METRICS.includes(name));
        const found = await (isEarly ? run.early
          : ask(runPath(run.id, "curves"), {metric: needed, points: POINTS, ...stretch}, {signal: mine.signal}));
        run.early = null;
        if (mine.signal.aborted) return;
        data.set(run.id, withDerived(found.series));
        if (found.damaged) notify(`${run.label}: ${found.damaged} damaged rows are left out`, "problem");
      }));
      if (mine.signal.aborted) return;
      problem.textContent = "";
      arrived = 0;
      redraw();
      if (isBlind && !snapshot) await read();
    } catch (error) {
      if (error.name !== "AbortError") problem.textContent = error.message;
    }
  }

  /** The stretch of steps that a zoom means for one run, with a margin so that lines leave the edge. */
  function steps(id) {
    const all = Object.values(data.get(id)).filter(series => series.step.length > 1);
    if (choice.axis === "step" || !all.length) return widened(zoom[0], zoom[1]);
    const longest = all.reduce((a, b) => a.step.at(-1) - a.step[0] > b.step.at(-1) - b.step[0] ? a : b);
    return widened(stepAt(longest, choice.axis, zoom[0]), stepAt(longest, choice.axis, zoom[1]));
  }

  const redraw = oncePerFrame(() => {
    reset.disabled = !zoom;
    const [from, to] = zoom ?? bounds();
    for (const item of chosen()) drawn.get(item.key)?.draw(linesOf(item), {...choice, log: choice.log.has("all"), from, to});
  });

  /** All charts have the same ends, so that what is above each other belongs together. */
  function bounds() {
    let from = Infinity, to = -Infinity;
    for (const item of chosen()) for (const name of item.names) for (const series of data.values()) {
      const along = series[name]?.[choice.axis];
      if (along?.length) [from, to] = [Math.min(from, along[0]), Math.max(to, along.at(-1))];
    }
    return from <= to ? [Math.min(from, 0), to] : [null, null];
  }

  function linesOf(item) {
    const single = runs.length === 1;
    return runs.flatMap((run, index) => item.names.map((name, place) => ({
      label: single ? name : item.names.length > 1 ? `${run.label} ${name.split("/")[0]}` : run.label,
      series: data.get(run.id)[name],
      colour: single ? place : index,
      dashed: !single && place > 0,
    })));
  }

  arrange();
  read();
  return {
    element,
    /** Ask for everything again, as after rows were taken back. */
    reread: read,
    /** Take points that a run has more. */
    take({run, series}) {
      const known = data.get(run);
      if (!known) return;
      for (const [name, points] of Object.entries(series)) {
        if (!known[name] && !neededFor(chosen()).includes(name)) continue;
        arrived += append(known, name, points);
        for (const [derived, {from, apply}] of Object.entries(DERIVED))
          if (from === name) append(known, derived, {...points, value: points.value.map(value => value === null ? null : apply(value))});
      }
      if (arrived > TOO_MANY) read();
      else redraw();
    },
    close() {
      asking?.abort();
      for (const item of drawn.values()) item.close();
    },
  };
}

function widened(begin, end) {
  const margin = 0.02 * (end - begin) + 1;
  return {begin: begin - margin, end: end + margin};
}
