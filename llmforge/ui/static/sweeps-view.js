// The sweeps there are, and one of them: its best trial, all trials over their parameters.

import { ask } from "./api.js";
import { stateMark } from "./columns.js";
import { fill, h } from "./dom.js";
import { date, duration, number, plain } from "./format.js";
import { parallelCoordinates } from "./parallel.js";
import { address, go, note, place } from "./router.js";
import { chooseOnly } from "./store.js";

/** Show the list of sweeps. */
export async function sweepsView(main) {
  const {sweeps} = await ask("api/sweeps");
  fill(main, h("h1", {}, "Sweeps"), sweeps.length
    ? h("div", {class: "scroll"}, h("table", {}, h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "sweep"), h("th", {scope: "col"}, "changed"))),
      h("tbody", {}, sweeps.map(sweep => h("tr", {}, h("td", {}, h("a", {href: address("sweep", sweep.id)}, sweep.id)), h("td", {}, date(sweep.changed)))))))
    : h("p", {class: "faint"}, "No sweeps in this directory of runs."));
  return {title: "Sweeps", keys: {Escape: () => go("runs")}, close: () => {}};
}

/** Show one sweep. */
export async function sweepView(main, id) {
  let sweep = await ask(`api/sweeps/${encodeURIComponent(id)}`);
  let picture = null, order = {key: "value", reverse: false};
  let brushes = (place().query.get("brush") ?? "").split(";").filter(Boolean).map(part => part.split(":").map(Number));

  const head = h("div"), drawing = h("div"), table = h("div"), count = h("span", {class: "faint", role: "status"});
  const compare = h("button", {type: "button", class: "main", onclick: () => {
    const ids = inSight().map(trial => trial.run).filter(Boolean).slice(0, 8);
    chooseOnly(ids);
    go("compare", "", {run: ids});
  }});
  const clear = h("button", {type: "button", onclick: () => picture.clear()}, "Clear brushes");

  const isBest = trial => sweep.best && trial.number === sweep.best.number && trial.repeat === sweep.best.repeat;
  const inSight = () => sorted(sweep.trials.filter((_, index) => picture.isIn(index)), order, sweep.direction);

  function drawHead() {
    const best = sweep.trials.find(isBest);
    const states = Object.entries(sweep.states).map(([state, number_]) => `${number_} ${state}`).join(", ");
    fill(head, h("div", {class: "title"}, h("h1", {}, id), h("span", {class: "faint"},
      [states || "no trials yet", sweep.seconds ? `${duration(sweep.seconds)} of training` : ""].filter(Boolean).join(", "))),
    best ? h("section", {class: "card"}, h("h2", {}, "Best trial"),
      h("p", {}, `${sweep.metric} `, h("strong", {}, number(best.value)), " in ", h("a", {href: address("run", best.run)}, best.run || `trial ${best.number}`)),
      h("p", {class: "mono"}, Object.entries(best.parameters).map(([name, value]) => `${name} = ${plain(value)}`).join(", "))) : null);
  }

  function drawPicture() {
    picture?.close();
    const axes = sweep.parameters.map(name => ({name, values: sweep.trials.map(trial => trial.parameters[name] ?? null)}));
    axes.push({name: sweep.metric, values: sweep.trials.map(trial => trial.value)});
    picture = parallelCoordinates({axes, direction: sweep.direction, best: sweep.trials.findIndex(isBest), brushes, onBrush: found => {
      brushes = found;
      note({brush: found.map(part => part.map(value => Number(value.toFixed(3))).join(":")).join(";")});
      drawTable();
    }});
    fill(drawing, picture.element);
  }

  function drawTable() {
    const trials = inSight();
    count.textContent = trials.length === sweep.trials.length ? `${trials.length} trials` : `${trials.length} of ${sweep.trials.length} trials`;
    clear.disabled = !brushes.length;
    const runs = trials.filter(trial => trial.run).length;
    compare.textContent = runs > 8 ? "Compare the first 8" : `Compare ${runs}`;
    compare.disabled = !runs;
    const columns = ["trial", "state", ...sweep.parameters, "value", "run"];
    fill(table, h("div", {class: "scroll"}, h("table", {},
      h("thead", {}, h("tr", {}, columns.map(key => h("th", {scope: "col", "aria-sort": key === order.key ? (order.reverse ? "descending" : "ascending") : null},
        h("button", {type: "button", onclick: () => { order = {key, reverse: key === order.key && !order.reverse}; drawTable(); }},
          key === "value" ? sweep.metric : key))))),
      h("tbody", {}, trials.map(trial => h("tr", {
        onmouseenter: () => picture.highlight(sweep.trials.indexOf(trial)), onmouseleave: () => picture.highlight(null)},
      h("td", {}, trial.repeat ? `${trial.number}.${trial.repeat}` : String(trial.number), isBest(trial) ? " ★" : ""),
      h("td", {}, stateMark(trial.state)),
      sweep.parameters.map(name => h("td", {}, plain(trial.parameters[name]))),
      h("td", {}, number(trial.value)),
      h("td", {}, trial.run ? h("a", {href: address("run", trial.run)}, trial.run) : "")))))));
  }

  const draw = () => { drawHead(); drawPicture(); drawTable(); };
  fill(main, head, h("p", {class: "faint"}, "Drag along an axis to keep the trials of that stretch; click the axis to undo it."), drawing,
    h("div", {class: "bar"}, count, clear, compare), table);
  draw();
  const reread = async () => {
    sweep = await ask(`api/sweeps/${encodeURIComponent(id)}`);
    draw();
  };
  return {title: id, exported: {sweep: id}, live: {runs: [], on: {again: reread, rows: reread}}, keys: {Escape: () => go("sweeps"), c: () => compare.click()}, close: () => picture.close()};
}

function sorted(trials, {key, reverse}, direction) {
  const read = trial => ({trial: trial.number, state: trial.state, value: trial.value, run: trial.run})[key] ?? trial.parameters[key] ?? null;
  const sign = (reverse ? -1 : 1) * (key === "value" && direction === "maximize" ? -1 : 1);
  return [...trials].sort((a, b) => {
    const [x, y] = [read(a), read(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  });
}
