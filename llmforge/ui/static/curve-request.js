// What is asked of the server to draw curves, and asking for it before a run is opened.

import { ask, queryText, runPath, snapshot } from "./api.js";
import { at } from "./dom.js";
import { expectedFor } from "./metric-groups.js";
import { rows } from "./store.js";

const CHART_WIDTH = 428; // the least one of several in a row has, with the gap: see .charts
const BESIDE = 100; // of which the gap, the borders and the axis take
const REST = 80; // milliseconds that the pointer stays on a link before it counts
const KEPT = 8; // answers, of some 30 kB each

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

const kept = new Map(); // by address: {row, answer}
let waiting = 0;

/** Return the curves of a run: those asked for before, if the run has not changed since. */
export function curvesOf(id, query, options) {
  const address = addressOf(id, query), known = kept.get(address);
  if (known && isAsBefore(known)) return known.answer;
  const row = rows.get(id), answer = ask(runPath(id, "curves"), query, options);
  answer.then(() => keep(address, row, answer), () => {}); // whoever asked is told of a failure
  return answer;
}

/** Ask for the curves of a run that is likely to be opened next, alone or over others. */
export function foresee(id, {isOneOfSeveral = false} = {}) {
  const row = rows.get(id);
  if (snapshot || !row) return;
  const query = curveQuery({metrics: expectedFor(null), axis: "step", isOneOfSeveral});
  const address = addressOf(id, query);
  if (kept.has(address) && isAsBefore(kept.get(address))) return;
  const answer = ask(runPath(id, "curves"), query);
  keep(address, row, answer);
  answer.catch(() => kept.delete(address)); // opening it tells why
}

const addressOf = (id, query) => runPath(id, "curves") + queryText(query);

function keep(address, row, answer) {
  if (!row) return;
  kept.delete(address);
  kept.set(address, {row, answer});
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
}

/** A run that trains has more points soon: the server has read it at least. */
const isAsBefore = ({row}) => row === rows.get(row.id) && !["running", "waiting"].includes(row.state);

/** Return listeners for a link to a run. */
export const foreseen = id => ({
  onpointerenter: () => { waiting = setTimeout(foresee, REST, id); },
  onpointerleave: () => clearTimeout(waiting),
});
