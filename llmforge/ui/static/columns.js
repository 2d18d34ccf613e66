// The columns of the table of runs: those that every run has, its metrics, its recipe's values.

import { age, date, duration, number, plain } from "./format.js";
import { h } from "./dom.js";
import { rows } from "./store.js";

const STATES = ["running", "completed", "early-stopped", "pruned", "interrupted", "crashed", "failed", "unreadable"];

const FIXED = [
  {key: "state", title: "state", width: 132, value: row => STATES.indexOf(row.state), text: row => row.state, draw: row => stateMark(row.state)},
  {key: "step", title: "step", width: 180, right: true, down: true, value: row => row.step, draw: progress},
  {key: "loss", title: "best loss", width: 96, right: true, value: row => row.loss, draw: row => number(row.loss)},
  {key: "perplexity", title: "perplexity", width: 104, right: true, value: row => row.perplexity, draw: row => number(row.perplexity, 2)},
  {key: "started", title: "started", width: 112, right: true, down: true, value: row => row.started, draw: row => dated(row.started)},
  {key: "duration", title: "took", width: 92, right: true, down: true, value: row => row.duration, draw: row => duration(row.duration)},
  {key: "ended", title: "ended", width: 112, right: true, down: true, value: row => row.ended, draw: row => dated(row.ended)},
  {key: "name", title: "name", width: 200, value: row => row.name || null, draw: row => row.name},
  {key: "tags", title: "tags", width: 160, value: row => (row.tags ?? []).join(", ") || null, draw: row => (row.tags ?? []).join(", ")},
  {key: "profile", title: "profile", width: 110, value: row => row.profile || null, draw: row => row.profile},
  {key: "exit_reason", title: "why it ended", width: 260, value: row => row.exit_reason || null, draw: row => row.exit_reason},
];

/** The run's own column, always the first. */
export const RUN = {key: "id", title: "run", width: 320, value: row => row.id};

/** What is shown where nothing was chosen; less on a narrow screen. */
export function defaults() {
  return innerWidth < 640 ? ["state", "loss"] : ["state", "step", "loss", "perplexity", "started", "duration"];
}

/** Return the columns there are by group; of the recipe the server sends keys in which runs differ. */
export function available() {
  const metrics = new Set(), recipe = new Set();
  for (const row of rows.values()) {
    for (const name of Object.keys(row.metrics ?? {})) metrics.add(name);
    for (const name of Object.keys(row.recipe ?? {})) recipe.add(name);
  }
  return {
    "Every run": FIXED.map(column => column.key),
    Metrics: [...metrics].sort(),
    "Recipe, where runs differ": [...recipe].sort(),
  };
}

/** Return the column of that key: a fixed one, a metric, or a recipe key. */
export function column(key) {
  const fixed = key === RUN.key ? RUN : FIXED.find(item => item.key === key);
  if (fixed) return fixed;
  const isMetric = [...rows.values()].some(row => key in (row.metrics ?? {}));
  const read = isMetric ? row => row.metrics?.[key] : row => row.recipe?.[key];
  const value = row => {
    const found = read(row);
    if (found === undefined || found === null) return null;
    return typeof found === "number" ? found : plain(found);
  };
  const width = Math.min(240, Math.max(90, 30 + 8 * key.length));
  return {key, title: key, width, right: isMetric, value, draw: row => number(value(row))};
}

/** Return runs in the order of a column; those without a value come last. */
export function sorted(list, key, reverse) {
  const {value, down} = column(key);
  const sign = Boolean(down) !== Boolean(reverse) ? -1 : 1;
  const keyed = list.map(row => [usable(value(row)), row]);
  keyed.sort(([a, left], [b, right]) => {
    if (a === null || b === null) return (a === null) - (b === null) || compare(left.id, right.id);
    return sign * compare(a, b) || compare(left.id, right.id);
  });
  return keyed.map(([, row]) => row);
}

/** Return the mark of a state: a sign and the word. */
export const stateMark = state => h("span", {class: `state ${state}`}, state);

/** Return the value that the filter compares for a name. */
export function valueOf(row, name) {
  if (name === "state") return row.state;
  if (name === "tag") return (row.tags ?? []).join(" ");
  const fixed = FIXED.find(item => item.key === name);
  if (fixed) return fixed.value(row);
  const found = row.metrics?.[name] ?? row.recipe?.[name];
  return typeof found === "number" ? found : plain(found);
}

function usable(value) {
  return value === undefined || value === "" || Number.isNaN(value) ? null : value;
}

function compare(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
}

function dated(moment) {
  return moment ? h("time", {title: date(moment)}, age(moment)) : "";
}

function progress(row) {
  if (!row.total_steps) return row.step ? number(row.step) : "";
  const text = `${number(row.step)} / ${number(row.total_steps)}`;
  if (row.state !== "running") return text;
  const share = Math.min(100, 100 * row.step / row.total_steps);
  const fill = h("i");
  fill.style.width = `${share}%`;
  return [h("span", {class: "meter", "aria-hidden": "true"}, fill), text];
}
