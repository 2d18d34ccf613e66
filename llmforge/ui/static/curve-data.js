// The points of curves as charts need them: along the chosen axis, smoothed, zoomed, joined.

import { DERIVED } from "./metric-groups.js";

const AXES = ["step", "tokens", "time"]; // an answer has steps, and the axis that was asked for

/** Add to a run's series those that are worked out from others. */
export function withDerived(series) {
  for (const [name, {from, apply}] of Object.entries(DERIVED)) {
    const base = series[from];
    if (!base || series[name]) continue;
    series[name] = {
      ...base, ...Object.fromEntries(AXES.filter(axis => base[axis]).map(axis => [axis, [...base[axis]]])),
      value: base.value.map(value => value === null ? null : apply(value)), mean: base.mean?.map(apply),
    };
  }
  return series;
}

/** Add points that arrived later; those at or before the last known step were there already. */
export function append(series, name, points) {
  const known = series[name] ??= {step: [], tokens: [], time: [], value: []};
  const last = known.step.at(-1) ?? -Infinity;
  let added = 0;
  points.step.forEach((step, index) => {
    if (step <= last) return;
    if (points.value[index] === null) {
      known.not_finite ??= {count: 0, first: step};
      known.not_finite.count++;
      return;
    }
    for (const key of [...AXES, "value"]) known[key]?.push(points[key][index]);
    known.mean?.push(points.value[index]);
    added++;
  });
  return added;
}

/**
 * Return the means over a window that is `share` of the curve wide, as in forge's own pictures: at
 * the beginning, where a loss falls fast, as many points after a value as before it.
 * Where points were left out, `mean` has those of the whole stretch each stands for.
 */
export function smoothed({value, mean = value}, share) {
  const reach = Math.max(1, Math.round(share * mean.length / 2));
  const sums = new Float64Array(mean.length + 1);
  for (let index = 0; index < mean.length; index++) sums[index + 1] = sums[index] + mean[index];
  return mean.map((_, index) => {
    const near = Math.min(reach, index), end = Math.min(index + near + 1, mean.length);
    return (sums[end] - sums[index - near]) / (end - index + near);
  });
}

/**
 * Return uPlot's table [x, y, y, …] of several lines `{x, y}`; a value where one line alone has a
 * point is undefined in the others, and their lines pass over it.
 */
export function joined(lines) {
  if (!lines.length) return [[]];
  const tables = []; // a curve and its smoothed line have the same x: they are joined as one
  for (const {x, y} of lines) {
    if (tables.at(-1)?.[0] === x) tables.at(-1).push(y);
    else tables.push([x, y]);
  }
  return tables.length === 1 ? tables[0] : merged(tables);
}

/** What uPlot.join does, for tables [x, y, …] in ascending order of x: it takes a fraction of the time. */
function merged(tables) {
  const all = new Float64Array(tables.reduce((sum, [x]) => sum + x.length, 0));
  let end = 0;
  for (const [x] of tables) { all.set(x, end); end += x.length; }
  all.sort();
  const xs = all.filter((x, index) => !index || x !== all[index - 1]);
  const columns = tables.flatMap(([x, ...ys]) => {
    const found = ys.map(() => new Array(xs.length).fill(undefined));
    let place = 0;
    x.forEach((value, index) => {
      while (xs[place] < value) place++;
      found.forEach((column, row) => { column[place] = ys[row][index]; });
    });
    return found;
  });
  return [Array.from(xs), ...columns];
}

/** Return the step that belongs to a place on an axis, by the points of a curve. */
export function stepAt(series, axis, place) {
  const along = series[axis];
  let low = 0, high = along.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (along[middle] < place) low = middle + 1;
    else high = middle;
  }
  return series.step[low];
}

/** Return points in ascending order of x, which uPlot needs: equal or falling ones are left out. */
export function rising(x, ...ys) {
  let last = -Infinity, isRising = true;
  for (const value of x) {
    if (value <= last) { isRising = false; break; }
    last = value;
  }
  if (isRising) return [x, ...ys];
  const keep = [];
  last = -Infinity;
  x.forEach((value, index) => { if (value > last) { keep.push(index); last = value; } });
  return [x, ...ys].map(values => keep.map(index => values[index]));
}
