// The charts of one run or of several over each other, with what can be chosen about them.

import { snapshot } from "./api.js";
import { chart } from "./chart.js";
import { append, stepAt, withDerived } from "./curve-data.js";
import { curveQuery, curvesOf } from "./curve-request.js";
import { fill, h, notify, oncePerFrame } from "./dom.js";
import { chartsOf, DERIVED, expectedFor, neededFor, shownAtFirst } from "./metric-groups.js";
import { note, place } from "./router.js";
import { rows } from "./store.js";

const TOO_MANY = 400; // points that arrived before the server is asked to thin them

/**
 * Return the panel for `runs`: {id, label}. It asks for their curves at once, shows the frames of
 * the charts that the table of runs lets it expect, and keeps its choices in the address.
 */
export function curvesPanel(runs) {
  const {query} = place();
  const choice = {
    axis: ["tokens", "time"].find(axis => axis === query.get("x")) ?? "step",
    log: new Set((query.get("log") ?? "").split(",").filter(Boolean)),
    smoothing: Number(query.get("smooth") ?? 2) / 100 || 0,
  };
  let charts = [], shown = [], picked = query.get("charts")?.split(",") ?? null;
  const metrics = new Set(); // names of what the runs have, once an answer told
  let zoom = (query.get("zoom") ?? "").split(":").map(Number);
  if (zoom.length !== 2 || !(zoom[1] > zoom[0])) zoom = null;
  const data = new Map(runs.map(run => [run.id, {}]));
  const drawn = new Map();
  let arrived = 0, asking = null, states = statesOf(runs);

  const grid = h("div", {class: "charts"});
  const menu = h("div"), none = h("p", {class: "faint", hidden: true}, "No metrics yet.");
  const problem = h("p", {class: "problem", role: "alert"});
  const reset = h("button", {type: "button", onclick: () => setZoom(null, null)}, "Reset zoom");
  const element = h("div", {}, bar(), problem, none, grid);

  function bar() {
    const axis = h("select", {onchange: event => {
      choice.axis = event.target.value;
      note({x: choice.axis === "step" ? "" : choice.axis, zoom: ""});
      zoom = null;
      read();
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
      h("label", {}, "Smoothing ", smoothing), reset, h("span", {class: "grow"}),
      h("details", {class: "menu"}, h("summary", {class: "button"}, "Charts"), menu));
  }

  function fillMenu() {
    fill(menu, charts.map(item => h("label", {}, h("input", {
      type: "checkbox", checked: shown.includes(item.key), onchange: event => {
        picked = shown = event.target.checked ? [...shown, item.key] : shown.filter(key => key !== item.key);
        note({charts: shown.join(",")});
        arrange();
        read();
      }}), " ", item.title)));
  }

  /** Take the names of the metrics that there are. */
  function lay(names) {
    charts = chartsOf(names);
    shown = picked ?? shownAtFirst(charts);
    if (!shown.length) shown = charts.slice(0, 4).map(item => item.key);
    fillMenu();
    arrange();
  }

  /** Take names that an answer told of; those known already cost nothing. */
  function learn(names) {
    const before = metrics.size;
    for (const name of names) metrics.add(name);
    if (metrics.size > before) lay([...metrics]);
  }

  const chosen = () => charts.filter(item => shown.includes(item.key));

  function arrange() {
    for (const [key, item] of drawn) if (!shown.includes(key)) { item.close(); item.element.remove(); drawn.delete(key); }
    for (const item of chosen()) if (!drawn.has(item.key)) drawn.set(item.key, chart({
      title: item.title, sync: "curves", onZoom: setZoom, onSize: read,
    }));
    chosen().forEach((item, index) => { // what is in its place stays there: it need not be laid out again
      const {element} = drawn.get(item.key);
      if (grid.children[index] !== element) grid.insertBefore(element, grid.children[index] ?? null);
    });
  }

  function setZoom(from, to) {
    zoom = from === null ? null : [from, to];
    note({zoom: zoom ? zoom.map(value => Number(value.toPrecision(8))).join(":") : ""});
    redraw();
    read();
  }

  /** Ask for the points of what is shown, or, at first, of what is expected to be. */
  async function read() {
    asking?.abort();
    const {signal} = asking = new AbortController();
    const isKnown = metrics.size > 0;
    const needed = isKnown ? neededFor(chosen()) : expectedFor(picked);
    if (!needed.length) return;
    // A stretch of tokens or time says which steps it is only once the whole curve is known.
    const isBlind = zoom && choice.axis !== "step" && [...data.values()].every(series => !Object.keys(series).length);
    const isLarge = [...drawn.values()].some(item => item.isLarge());
    try {
      const names = await Promise.all(runs.map(async run => {
        const stretch = zoom && !isBlind ? steps(run.id) : {};
        const query = curveQuery({metrics: needed, axis: choice.axis, isLarge, isOneOfSeveral: runs.length > 1, stretch});
        const found = await curvesOf(run.id, query, {signal});
        signal.throwIfAborted();
        data.set(run.id, withDerived(found.series));
        if (found.damaged) notify(`${run.label}: ${found.damaged} damaged rows are left out`, "problem");
        return found.metrics;
      }));
      signal.throwIfAborted();
      problem.textContent = "";
      arrived = 0;
      learn(names.flat());
      none.hidden = metrics.size > 0;
      redrawNow();
      const isPart = neededFor(chosen()).some(name => !needed.includes(name));
      if (((isBlind && metrics.size) || (!isKnown && isPart)) && !snapshot) await read();
    } catch (error) {
      if (error.name !== "AbortError") problem.textContent = error.message;
    }
  }

  /** The stretch of steps that a zoom means for one run, with a margin so that lines leave the edge. */
  function steps(id) {
    const all = Object.values(data.get(id)).filter(series => series[choice.axis]?.length > 1);
    if (choice.axis === "step" || !all.length) return widened(zoom[0], zoom[1]);
    const longest = all.reduce((a, b) => a.step.at(-1) - a.step[0] > b.step.at(-1) - b.step[0] ? a : b);
    return widened(stepAt(longest, choice.axis, zoom[0]), stepAt(longest, choice.axis, zoom[1]));
  }

  /** Measure all charts first, then draw them: by turns, the page would be laid out for each. */
  function redrawNow() {
    reset.disabled = !zoom;
    const [from, to] = zoom ?? bounds();
    const items = chosen().map(item => [drawn.get(item.key), linesOf(item)]);
    for (const [item, lines] of items) item.take(lines, {...choice, log: choice.log.has("all"), from, to});
    const boxes = items.map(([item]) => item.measure());
    items.forEach(([item], index) => item.draw(boxes[index]));
  }

  const redraw = oncePerFrame(redrawNow);

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

  const expected = new Set(expectedFor(picked));
  lay([...new Set(runs.flatMap(run => Object.keys(rows.get(run.id)?.metrics ?? {})))].filter(name => expected.has(name)));
  reset.disabled = !zoom;
  const ready = read();
  return {
    element,
    /** Is kept once the curves were drawn for the first time. */
    ready,
    /** Ask for everything again, as after rows were taken back. */
    reread: read,
    /** Ask again when a run trains that did not: its curves may have been asked for before that. */
    takeStates() {
      const now = statesOf(runs);
      if (now !== states) { states = now; read(); }
    },
    /** Take points that a run has more. */
    take({run, series}) {
      const known = data.get(run);
      if (!known) return;
      learn(Object.keys(series));
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

const statesOf = runs => runs.map(run => rows.get(run.id)?.state).join();

function widened(begin, end) {
  const margin = 0.02 * (end - begin) + 1;
  return {begin: begin - margin, end: end + margin};
}
