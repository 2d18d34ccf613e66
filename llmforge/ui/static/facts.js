// Facts of a run as labelled lines.

import { h, outwardLink } from "./dom.js";
import { date, duration, number, plain } from "./format.js";

/** Return a table of labelled values; values may be elements, empty ones are left out. */
export function factsTable(values) {
  const rows = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  if (!rows.length) return null;
  return h("table", {class: "facts"}, h("tbody", {}, rows.map(([name, value]) =>
    h("tr", {}, h("th", {scope: "row"}, name), h("td", {}, value)))));
}

/** Return a titled box, or null when there is nothing in it. */
export function card(title, content) {
  if (!content || (Array.isArray(content) && !content.some(Boolean))) return null;
  return h("section", {class: "card"}, h("h2", {}, title), content);
}

/** Return the cards of everything that is known of a run. */
export function factsOf(run) {
  const {provenance = {}} = run;
  return h("div", {class: "columns"},
    card("Run", factsTable({
      name: run.name, why: run.why, started: date(run.started), ended: date(run.ended), took: duration(run.duration),
      attempt: `${run.attempt}, started ${run.restarts <= 1 ? "once" : `${run.restarts} times`}`,
      profile: run.profile, tags: (run.tags ?? []).join(", "), heartbeat: heartbeat(run),
      directory: h("code", {}, run.directory + (run.gone ? " (gone)" : "")), next: run.next ? h("code", {}, run.next) : "",
    })),
    card("Last metrics", factsTable(numbers(run.last_metrics))),
    card("Last timing", factsTable(numbers(run.last_timing))),
    card("Chosen automatically", [
      factsTable(lines(run.resolved, ["reasons", "matmul_speed"])),
      (run.resolved?.reasons ?? []).map(text => h("p", {class: "faint"}, text))]),
    card("Goodput", factsTable(numbers(run.goodput))),
    card("Provenance", factsTable({
      ...lines(provenance, ["git", "command", "packages"]),
      command: provenance.command ? h("code", {}, plain([provenance.command].flat().join(" "))) : "",
      git: gitText(provenance.git), packages: plain(provenance.packages ?? {}),
    })),
    card("Fingerprints", factsTable(lines(run.fingerprints))),
    card("Trackers", factsTable(Object.fromEntries(Object.entries(run.viewers ?? {}).map(([name, link]) => [name, outwardLink(link)])))),
    card("Not delivered yet", factsTable(lines(run.pending))),
    card("Artifacts", factsTable(Object.fromEntries(Object.entries(run.artifacts ?? {}).map(([name, path]) => [name, h("code", {}, path)])))),
    card("Notices", (run.notices ?? []).map(text => h("p", {}, text))));
}

function heartbeat({state, heartbeat: beat}) {
  if (!beat?.time || !["running", "crashed"].includes(state)) return "";
  return `${date(beat.time)}, process ${beat.pid} on ${beat.host}`;
}

function gitText(git) {
  if (!git?.commit) return "";
  const changed = Object.keys(git.changed ?? {});
  return String(git.commit).slice(0, 12) + (changed.length ? `, changed: ${changed.join(", ")}` : "");
}

function numbers(values = {}) {
  return Object.fromEntries(Object.entries(values ?? {})
    .filter(([name, value]) => typeof value === "number" && name !== "time")
    .map(([name, value]) => [name, number(value)]));
}

function lines(values = {}, without = []) {
  return Object.fromEntries(Object.entries(values ?? {}).filter(([name]) => !without.includes(name))
    .map(([name, value]) => [name, plain(value)]));
}
