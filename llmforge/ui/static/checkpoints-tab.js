// Checkpoints of a run, their uploads, what trackers keep of them, and where they were deployed.

import { ask, runPath } from "./api.js";
import { fill, h, outwardLink } from "./dom.js";
import { card } from "./facts.js";
import { bytes, date, duration, number } from "./format.js";

/** Fill the panel. */
export async function drawCheckpoints(panel, id) {
  const {checkpoints, uploads, kept, deployments, problems} = await ask(runPath(id, "checkpoints"));
  const nothing = !(checkpoints.length || uploads.length || kept.length || deployments.length);
  fill(panel, problems.map(text => h("p", {class: "problem"}, text)),
    nothing && !problems.length ? h("p", {class: "faint"}, "No checkpoints yet.") : null,
    card("Checkpoints", list(["step", "size", "written", "kept as", "check"], checkpoints.map(item => [
      number(item.step), bytes(item.size), date(item.created),
      [["best", item.is_best], ["last", item.is_last], ["pinned", item.is_pinned]].filter(([, is]) => is).map(([name]) => name).join(", "),
      item.problem ? h("span", {class: "problem"}, item.problem) : "ok"]))),
    card("Uploads", list(["step", "state", "sent", "tries", "took", "where", "error"], uploads.map(item => [
      number(item.step), item.state, item.size ? `${bytes(item.sent) || "0"} of ${bytes(item.size)}` : "", number(item.tries),
      duration(item.seconds), item.url, item.error]))),
    card("Kept by trackers", list(["step", "tracker", "address"], kept.map(item => [
      number(item.step), item.tracker, outwardLink(item.address)]))),
    card("Deployed", list(["to", "step", "revision", "when"], deployments.map(item => [
      item.link ? outwardLink(item.link, item.to) : item.to, number(item.step), item.revision, date(item.time)]))));
}

function list(titles, rows) {
  if (!rows.length) return null;
  const right = title => ["step", "size", "tries", "took"].includes(title) ? "number" : null;
  return h("div", {class: "scroll"}, h("table", {},
    h("thead", {}, h("tr", {}, titles.map(title => h("th", {scope: "col", class: right(title)}, title)))),
    h("tbody", {}, rows.map(row => h("tr", {}, row.map((value, index) => h("td", {class: right(titles[index])}, value)))))));
}
