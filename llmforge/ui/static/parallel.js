// Parallel coordinates: an axis per parameter and one for the objective, a line per trial.
// Dragging along an axis chooses a stretch of it; a click on the axis undoes that.

import { h, oncePerFrame } from "./dom.js";
import { short } from "./format.js";
import { colour, whenColoursChange } from "./theme.js";

const TOP = 44, BOTTOM = 26, SIDE = 70, NARROWEST = 110, REACH = 28;

/**
 * Return the picture. `axes` are {name, values (one per trial, null where unknown)}, the last one the
 * objective; `best` is the place of the best trial. `onBrush(brushes)` is told the chosen stretches
 * as [axis, from, to] in shares of the axis, and `isIn(trial)` says whether a trial is in all of them.
 */
export function parallelCoordinates({axes, best, direction, onBrush, brushes: first = []}) {
  const scales = axes.map(axis => scaleOf(axis.values));
  const count = axes[0]?.values.length ?? 0;
  const brushes = new Map(first.map(([index, from, to]) => [index, [from, to]]));
  const canvas = h("canvas", {role: "img", "aria-label": `${count} trials over ${axes.map(axis => axis.name).join(", ")}; the table below has their values`});
  const element = h("div", {class: "parallel"}, canvas);
  let dragged = null, highlighted = null;

  const width = () => Math.max(element.clientWidth, 2 * SIDE + NARROWEST * (axes.length - 1));
  const height = () => element.clientHeight - 2;
  const along = index => SIDE + index * (width() - 2 * SIDE) / Math.max(1, axes.length - 1);
  const down = share => TOP + (1 - share) * (height() - TOP - BOTTOM);
  const shareAt = y => Math.max(0, Math.min(1, 1 - (y - TOP) / (height() - TOP - BOTTOM)));

  function isIn(trial) {
    for (const [index, [from, to]] of brushes) {
      const share = scales[index].share(axes[index].values[trial]);
      if (share === null || share < from || share > to) return false;
    }
    return true;
  }

  const draw = oncePerFrame(() => {
    const ratio = devicePixelRatio || 1;
    canvas.width = width() * ratio;
    canvas.height = height() * ratio;
    canvas.style.width = `${width()}px`;
    canvas.style.height = `${height()}px`;
    const ink = canvas.getContext("2d");
    ink.scale(ratio, ratio);
    const inside = [], outside = [];
    for (let trial = 0; trial < count; trial++) (isIn(trial) ? inside : outside).push(trial);
    const objective = axes.length - 1, low = colour("low"), high = colour("high");
    for (const trial of outside) line(ink, trial, colour("grid"), 1, 1);
    for (const trial of inside) {
      const share = scales[objective].share(axes[objective].values[trial]);
      const good = share === null ? null : direction === "maximize" ? share : 1 - share;
      line(ink, trial, good === null ? colour("dim") : mixed(high, low, good), 1.4, 0.75);
    }
    if (best !== null && best >= 0) line(ink, best, colour("accent"), 3, 1);
    if (highlighted !== null) line(ink, highlighted, colour("text"), 2.5, 1);
    axes.forEach((axis, index) => drawAxis(ink, axis, index));
  });

  function line(ink, trial, stroke, size, alpha) {
    ink.strokeStyle = stroke;
    ink.lineWidth = size;
    ink.globalAlpha = alpha;
    ink.beginPath();
    let isOpen = false;
    axes.forEach((axis, index) => {
      const share = scales[index].share(axis.values[trial]);
      if (share === null) { isOpen = false; return; }
      if (isOpen) ink.lineTo(along(index), down(share));
      else ink.moveTo(along(index), down(share));
      isOpen = true;
    });
    ink.stroke();
    ink.globalAlpha = 1;
  }

  function drawAxis(ink, axis, index) {
    const x = along(index), room = axes.length > 1 ? along(1) - along(0) - 8 : width();
    ink.strokeStyle = colour("faint");
    ink.lineWidth = 1;
    ink.beginPath();
    ink.moveTo(x, down(0));
    ink.lineTo(x, down(1));
    ink.stroke();
    ink.fillStyle = colour("text");
    ink.font = "600 12px system-ui, sans-serif";
    ink.textAlign = "center";
    const isLast = index === axes.length - 1;
    const parts = isLast ? [axis.name] : axis.name.split(".");
    const name = parts.slice(-2);
    name.forEach((part, row) => ink.fillText(fitted(ink, part, Math.max(room, 60)), x, (name.length > 1 ? 14 : 28) + 14 * row));
    ink.font = "11px system-ui, sans-serif";
    ink.fillStyle = colour("faint");
    ink.textAlign = "left";
    ink.strokeStyle = colour("panel");  // a rim, which keeps lines off the texts
    ink.lineWidth = 4;
    for (const [share, text] of scales[index].marks) {
      const shown = fitted(ink, text, Math.max(40, room / 2));
      ink.strokeText(shown, x + 6, down(share) + 4);
      ink.fillText(shown, x + 6, down(share) + 4);
    }
    const brush = brushes.get(index);
    if (!brush) return;
    ink.fillStyle = colour("accent");
    ink.globalAlpha = 0.25;
    ink.fillRect(x - 8, down(brush[1]), 16, down(brush[0]) - down(brush[1]));
    ink.globalAlpha = 1;
    ink.strokeStyle = colour("accent");
    ink.strokeRect(x - 8, down(brush[1]), 16, down(brush[0]) - down(brush[1]));
  }

  function axisAt(x) {
    const near = axes.map((_, index) => [Math.abs(along(index) - x), index]).sort((a, b) => a[0] - b[0])[0];
    return near && near[0] < REACH ? near[1] : null;
  }

  const told = () => onBrush([...brushes].map(([index, [from, to]]) => [index, from, to]));
  canvas.addEventListener("pointerdown", event => {
    const index = axisAt(event.offsetX);
    if (index === null) return;
    canvas.setPointerCapture(event.pointerId);
    dragged = {index, from: shareAt(event.offsetY)};
    if (brushes.delete(index)) told();
    draw();
  });
  canvas.addEventListener("pointermove", event => {
    canvas.style.cursor = axisAt(event.offsetX) === null ? "default" : "crosshair";
    if (!dragged) return;
    const to = shareAt(event.offsetY);
    if (Math.abs(to - dragged.from) < 0.01) return;
    brushes.set(dragged.index, [Math.min(dragged.from, to), Math.max(dragged.from, to)]);
    told();
    draw();
  });
  canvas.addEventListener("pointerup", () => { dragged = null; });

  const sizes = new ResizeObserver(draw);
  sizes.observe(element);
  const stopColours = whenColoursChange(draw);
  draw();
  return {
    element, isIn,
    highlight(trial) { highlighted = trial; draw(); },
    clear() { brushes.clear(); told(); draw(); },
    close: () => { sizes.disconnect(); stopColours(); },
  };
}

/** Return how values lie on an axis: linear, by magnitude where they span much, or one by one. */
function scaleOf(values) {
  const known = values.filter(value => value !== null && value !== undefined);
  if (!known.length || !known.every(value => typeof value === "number")) return categories(known);
  const [low, high] = known.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const isLog = low > 0 && high / low >= 10;
  const to = isLog ? Math.log10 : value => value, back = isLog ? value => 10 ** value : value => value;
  const start = to(low), span = to(high) - start;
  const share = value => typeof value !== "number" ? null : span ? (to(value) - start) / span : 0.5;
  return {share, marks: span ? marksOf(known, share, part => back(start + part * span)) : [[0.5, short(low)]]};
}

/** Return the places on an axis that are named: the values themselves where they are few. */
function marksOf(known, share, valueAt) {
  const values = [...new Set(known)].sort((a, b) => a - b);
  const isFew = values.length <= 7 && values.every((value, index) => !index || share(value) - share(values[index - 1]) > 0.06);
  if (isFew) return values.map(value => [share(value), short(value)]);
  return [0, 0.25, 0.5, 0.75, 1].map(part => [part, short(Number(valueAt(part).toPrecision(3)))]);
}

function categories(known) {
  const names = [...new Set(known.map(String))].sort();
  const places = new Map(names.map((name, index) => [name, names.length > 1 ? index / (names.length - 1) : 0.5]));
  return {share: value => value === null || value === undefined ? null : places.get(String(value)) ?? null,
    marks: [...places].map(([name, place]) => [place, name])};
}

/** Return a colour between two given as #rrggbb. */
function mixed(from, to, share) {
  const parts = text => [1, 3, 5].map(start => parseInt(text.slice(start, start + 2), 16));
  const [a, b] = [parts(from), parts(to)];
  return `rgb(${a.map((value, index) => Math.round(value + (b[index] - value) * share)).join(" ")})`;
}

function fitted(ink, text, room) {
  if (ink.measureText(text).width <= room) return text;
  let end = text.length;
  while (end > 1 && ink.measureText(`${text.slice(0, end)}…`).width > room) end--;
  return `${text.slice(0, end)}…`;
}
