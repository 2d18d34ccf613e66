// What is asked of the server to draw curves, and asking for it before a run is opened.

import { ask, queryText, runPath, snapshot } from "./api.js";
import { at } from "./dom.js";
import { expectedFor } from "./metric-groups.js";
import { rows } from "./store.js";

const CHART_WIDTH = 428; // the least one of several in a row has, with the gap: see .charts
const BESIDE = 100; // of which the gap, the borders and the axis take
const REST = 80; // milliseconds that the pointer stays on a link before it counts
const KEPT = 8; // answers asked for ahead, of some 30 kB each

let width = 1248; // of the view; asking for it while a view is built would lay the page out
new ResizeObserver(entries => { width = entries.at(-1).contentRect.width; }).observe(at("main"));

/**
 * Return the query for `metrics` along an axis. It asks for as many points of a curve as its chart has
 * pixels, of several over each other for half as many: extremes are among them, and a zoom asks for
 * more. `stretch` is {begin, end} in steps, or empty.
 */
export function curveQuery({metrics, axis, isLarge = false, isOneOfSeveral, stretch = {}}) {
  const inRow = isLarge ? 1 : Math.max(1, Math.floor(width / CHART_WIDTH));
  const pixels = Math.min(2000, Math.max(400, devicePixelRatio * (width / inRow - BESIDE)));
  const points = Math.round(isOneOfSeveral ? pixels / 2 : pixels);
  return {metric: metrics, points, along: axis, ...stretch};
}

const ahead = new Map(); // by address: {row, answer}
let waiting = 0;

/** Return the curves of a run: those asked for ahead, once, if the run has not changed since. */
export function curvesOf(id, query, options) {
  const path = runPath(id, "curves"), address = path + queryText(query);
  const known = ahead.get(address);
  ahead.delete(address);
  return known && isAsBefore(known) ? known.answer : ask(path, query, options);
}

/** Ask for the curves of a run that is likely to be opened next, alone or over others. */
export function foresee(id, {isOneOfSeveral = false} = {}) {
  const row = rows.get(id);
  if (snapshot || !row) return;
  const query = curveQuery({metrics: expectedFor(null), axis: "step", isOneOfSeveral});
  const address = runPath(id, "curves") + queryText(query);
  if (ahead.has(address) && isAsBefore(ahead.get(address))) return;
  const answer = ask(runPath(id, "curves"), query);
  ahead.delete(address);
  ahead.set(address, {row, answer});
  if (ahead.size > KEPT) ahead.delete(ahead.keys().next().value);
  answer.catch(() => ahead.delete(address)); // opening it tells why
}

/** A run that trains has more points soon: the server has read it at least. */
const isAsBefore = ({row}) => row === rows.get(row.id) && !["running", "waiting"].includes(row.state);

/** Return listeners for a link to a run. */
export const foreseen = id => ({
  onpointerenter: () => { waiting = setTimeout(foresee, REST, id); },
  onpointerleave: () => clearTimeout(waiting),
});
