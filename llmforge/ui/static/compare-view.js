// Several runs over each other: curves, a table of their results, and how their recipes differ.

import { ask } from "./api.js";
import { stateMark } from "./columns.js";
import { curvesPanel } from "./curves-panel.js";
import { fill, h } from "./dom.js";
import { duration, number, plain } from "./format.js";
import { address, go, place } from "./router.js";
import { chooseOnly, chosen } from "./store.js";

/** Show runs side by side in `main`; returns what the page may ask of the view. */
export async function compareView(main, _, {reveal, signal}) {
  const asked = place().query.getAll("run");
  const ids = asked.length ? asked : [...chosen];
  const keys = {Escape: () => go("runs"), c: () => go("runs")};
  if (!ids.length) {
    fill(main, h("h1", {}, "Compare"), h("p", {}, "Select runs in the table (", h("kbd", {}, "x"), "), then compare them (", h("kbd", {}, "c"), ")."),
      h("p", {}, h("a", {href: "#/runs"}, "To the runs")));
    return {title: "Compare", keys, close: () => {}};
  }
  chooseOnly(ids);
  const labels = shortLabels(ids);
  const panel = curvesPanel(ids.map((id, index) => ({id, label: labels[index]})));
  const tables = h("div");
  const draw = ({recipe, metrics, runs: named, problems}) => fill(tables,
    problems.map(text => h("p", {class: "problem"}, text)),
    h("h2", {}, "Results"), resultsTable(named, metrics, labels),
    h("h2", {}, "Recipe keys that differ"),
    recipe.length ? differences(named, recipe, labels) : h("p", {class: "faint"}, ids.length > 1 ? "The recipes are the same." : "There is one run only."));
  fill(main, h("div", {class: "title"}, h("h1", {}, `${ids.length} run${ids.length > 1 ? "s" : ""} compared`)), panel.element, tables);
  reveal();
  try { draw(await ask("api/compare", {run: ids}, {signal})); }
  catch (error) { panel.close(); throw error; }
  const reread = () => ask("api/compare", {run: ids}).then(draw, () => {});
  const on = {
    again: () => { reread(); panel.reread(); },
    rows: changed => { if (ids.some(id => changed.has(id))) { reread(); panel.takeStates(); } },
    points: body => panel.take(body),
    reset: () => panel.reread(),
  };
  return {title: "Compare", exported: {run: ids}, live: {runs: ids, on, after: panel.ready}, keys, close: () => panel.close()};
}

/** Return ids without what they all begin and end with, where that leaves something to tell them by. */
export function shortLabels(ids) {
  if (ids.length < 2) return ids;
  const parts = ids.map(id => id.split(/(?<=[_-])/));
  let same = 0;
  while (parts.every(list => same < list.length - 1 && list[same] === parts[0][same])) same++;
  const labels = parts.map(list => list.slice(same).join(""));
  return new Set(labels).size === ids.length ? labels : ids;
}

function head(named, labels, title) {
  return h("thead", {}, h("tr", {}, h("th", {scope: "col"}, title), named.map((run, index) =>
    h("th", {scope: "col"}, h("span", {class: `swatch c${index % 8}`, "aria-hidden": "true"}), " ",
      h("a", {href: address("run", run.id), title: run.id}, labels[index]), " ", stateMark(run.state)))));
}

function resultsTable(named, metrics, labels) {
  return h("div", {class: "scroll"}, h("table", {}, head(named, labels, "result"),
    h("tbody", {}, metrics.map(({name, values}) => h("tr", {}, h("th", {scope: "row"}, name),
      values.map((value, index) => h("td", {}, value === null ? "–" : shown(name, value), " ", index ? difference(name, values[0], value) : null)))))));
}

const shown = (name, value) => name === "duration_seconds" ? duration(value) : number(value);

/** How a value differs from that of the first run; coloured where less or more is known to be better. */
function difference(name, first, value) {
  if (typeof first !== "number" || typeof value !== "number" || first === value || name.includes("step")) return null;
  const by = value - first;
  const lessIsBetter = /loss|perplexity|bits_per/.test(name);
  const moreIsBetter = /accuracy|f1|bleu|rouge|chrf|exact_match|tokens_per_second/.test(name);
  const kind = lessIsBetter || moreIsBetter ? ((by < 0) === lessIsBetter ? "better" : "worse") : "faint";
  const text = name === "duration_seconds" ? duration(Math.abs(by)) : number(Math.abs(by));
  return h("span", {class: kind}, `${by > 0 ? "+" : "−"}${text}`);
}

function differences(named, recipe, labels) {
  return h("div", {class: "scroll"}, h("table", {}, head(named, labels, "key"),
    h("tbody", {}, recipe.map(({name, values}) => h("tr", {}, h("th", {scope: "row"}, h("code", {}, name)),
      values.map(value => h("td", {}, value === null ? h("span", {class: "faint"}, "–") : h("code", {}, plain(value)))))))));
}
