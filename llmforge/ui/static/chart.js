// One chart of curves, drawn by uPlot; its legend shows the values under the cursor.

import { at, fill, h, oncePerFrame } from "./dom.js";
import { duration, number, short } from "./format.js";
import { joined, rising, smoothed } from "./curve-data.js";
import { colour, lineColour, whenColoursChange } from "./theme.js";

const SPARSE = 60; // points up to which each is marked
const AXIS_TITLES = {step: "optimizer step", tokens: "tokens", time: "time trained"};

/**
 * Return a chart: `take` lines, `measure` and `draw` them. Lines are {label, series, colour (index),
 * dashed}; the axis is "step", "tokens" or "time". A chart out of sight has its legend only, and is
 * drawn when it comes near. `onZoom(from, to)` is told of a stretch that was chosen by dragging, with
 * nulls when a double click undoes it; `onSize` when it was made larger or smaller.
 */
export function chart({title, sync, onZoom, onSize}) {
  const legend = h("ul", {class: "legend"});
  const host = h("div", {class: "draw"});
  const warning = h("span", {class: "problem"});
  const enlarge = h("button", {type: "button", title: "Larger or smaller", "aria-label": `${title}: larger or smaller`}, "⤢");
  const element = h("figure", {class: "chart", role: "group", "aria-label": title},
    h("figcaption", {}, h("h3", {}, title), warning, enlarge), host, legend);
  let plot = null, shape = "", lines = [], tracks = [], values = [], asked = null, isNear = false;
  let before = null; // what was taken last: the same again changes nothing

  enlarge.addEventListener("click", () => { element.classList.toggle("large"); onSize(); });
  const resize = new ResizeObserver(oncePerFrame(() => {
    const {clientWidth: width, clientHeight: height} = host;
    // as it is told once for a size that did not change, too, and would draw all over again
    if (plot && width && (plot.width !== width || plot.height !== height)) plot.setSize({width, height});
  }));
  resize.observe(host);
  const approach = new IntersectionObserver(entries => {
    isNear = entries.at(-1).isIntersecting;
    if (isNear) whenIdle();
  }, {root: at("main"), rootMargin: "400px"});
  approach.observe(element);
  const stopColours = whenColoursChange(() => plot?.redraw(false));

  /** Take lines to draw, and show their last values. */
  function take(wanted, how) {
    wanted = wanted.filter(line => line.series?.[how.axis]?.length);
    const now = JSON.stringify([how, wanted.map(({series, ...line}) => [line, series.value.length])]);
    if (now === before && wanted.every((line, index) => line.series === lines[index].series)) return;
    before = now;
    asked = how;
    lines = wanted;
    tracks = lines.flatMap(line => tracksOf(line, how.axis, how.log, how.smoothing));
    element.hidden = !lines.length;
    warning.textContent = brokenText(lines);
    drawLegend(tracks);
  }

  function measure() {
    const {top, bottom} = element.getBoundingClientRect();
    return {width: host.clientWidth, height: host.clientHeight, inSight: bottom > 0 && top < innerHeight};
  }

  /** Draw what was taken; `box` is what `measure` returned. */
  function draw({width, height, inSight}) {
    if (!asked || !lines.length) return;
    if (!inSight) { if (isNear) whenIdle(); return; }
    const {axis, log, from, to} = asked;
    asked = null;
    const data = joined(tracks);
    const begin = from ?? data[0][0], end = to ?? data[0].at(-1);
    const ends = {min: begin, max: end > begin ? end : begin + 1};
    const wanted = JSON.stringify([axis, log, tracks.map(track => [track.label, track.colour, track.dashed, track.faint, track.sparse])]);
    if (wanted !== shape || !plot) {
      plot?.destroy();
      plot = new uPlot({
        width: width || 400, height: height || 220,
        ...options(tracks, {axis, ends, log, sync, onZoom, values: show}),
      }, data, host);
      shape = wanted;
    } else {
      plot.batch(() => {
        plot.setData(data, false);
        plot.setScale("x", ends);
      });
    }
  }

  /** Draw a chart that is not in sight yet, or only came there, when nothing else is to be done. */
  function whenIdle() {
    const now = () => { if (isNear && element.isConnected) draw({...measure(), inSight: true}); };
    if (!asked) return;
    if (measure().inSight) now();
    else setTimeout(() => (window.requestIdleCallback ?? setTimeout)(now), 100);
  }

  function drawLegend(tracks) {
    values = [];
    fill(legend, tracks.filter(track => !track.faint).map(track => {
      const value = h("span", {class: "value"});
      values.push([value, tracks.indexOf(track) + 1, number(track.y.findLast(item => item !== null))]);
      return h("li", {}, h("span", {class: `swatch c${track.colour % 8}${track.dashed ? " dashed" : ""}`}),
        h("span", {}, track.label), value);
    }));
    show(null);
  }

  // With several lines each has points of its own: the nearest one before the cursor counts.
  function show(index) {
    for (const [element, row, last] of values) {
      if (index === null || index === undefined) { element.textContent = last; continue; }
      const column = plot.data[row];
      let near = index;
      while (near > 0 && (column[near] === null || column[near] === undefined)) near--;
      element.textContent = number(column[near] ?? null);
    }
  }

  return {
    element, take, measure, draw,
    isLarge: () => element.classList.contains("large"),
    close: () => { plot?.destroy(); resize.disconnect(); approach.disconnect(); stopColours(); },
  };
}

function tracksOf(line, axis, log, smoothing) {
  const {series} = line;
  const positive = values => log ? values.map(value => value > 0 ? value : null) : values;
  const isDense = series.value.length > SPARSE;
  const [x, raw, smooth] = rising(series[axis], series.value, smoothing && isDense ? smoothed(series, smoothing) : series.value);
  const shared = {label: line.label, colour: line.colour, dashed: line.dashed, x, sparse: !isDense};
  if (!smoothing || !isDense) return [{...shared, y: positive(raw)}];
  return [{...shared, y: positive(raw), faint: true}, {...shared, y: positive(smooth)}];
}

function options(tracks, {axis, ends, log, sync, onZoom, values}) {
  const ink = {
    stroke: () => colour("faint"), grid: {stroke: () => colour("grid"), width: 1},
    ticks: {show: false}, font: "12px system-ui, sans-serif",
  };
  return {
    pxAlign: false, legend: {show: false},
    cursor: {sync: {key: sync}, points: {size: 6}, drag: {x: true, y: false, setScale: false}, focus: {prox: 30}},
    scales: {x: {time: false, auto: false, ...ends}, y: {distr: log ? 3 : 1}},
    axes: [
      {...ink, label: AXIS_TITLES[axis], labelSize: 18, labelFont: ink.font, size: 30, space: 70,
        values: (_, places) => places.map(place => axis === "time" ? duration(place) : short(place))},
      {...ink, size: 52, space: 36, values: (_, places) => places.map(place => place === null ? "" : short(place))},
    ],
    series: [{}, ...tracks.map(track => ({
      label: track.label, spanGaps: true, width: track.faint ? 1 : 1.8, alpha: track.faint ? 0.3 : 1,
      stroke: () => lineColour(track.colour), dash: track.dashed ? [6, 4] : undefined,
      points: {show: track.sparse, size: 5, fill: () => lineColour(track.colour)},
    }))],
    hooks: {
      setCursor: [plot => values(plot.cursor.idx)],
      setSelect: [plot => {
        const {left, width} = plot.select;
        if (width > 4) onZoom(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
        plot.setSelect({left: 0, top: 0, width: 0, height: 0}, false);
      }],
      ready: [plot => plot.over.addEventListener("dblclick", () => onZoom(null, null))],
    },
  };
}

function brokenText(lines) {
  const broken = lines.filter(line => line.series.not_finite);
  if (!broken.length) return "";
  const {count, first} = broken[0].series.not_finite;
  return `${count} value${count === 1 ? " is" : "s are"} not finite, the first at step ${number(first)}`;
}
