// The rows of all runs, kept up to date by the stream of events, and which of them are chosen.

import { ask } from "./api.js";

export const rows = new Map();
export const chosen = new Set();

const listeners = new Set();

/** Call `act` when rows or the choice change, until the returned function is called. */
export function whenRowsChange(act) {
  listeners.add(act);
  return () => listeners.delete(act);
}

let known = 0;

/** The version of the table that the rows are of. */
export const version = () => known;

/** Read all rows. */
export async function load() {
  take(await ask("api/runs"));
}

/** Take changed rows, or all of them, and drop those that are gone; return the ids of both. */
export function take({runs, removed = [], whole = false, version: now}) {
  if (whole) rows.clear();
  for (const row of runs) rows.set(row.id, {...row, words: wordsOf(row)});
  for (const id of removed) {
    rows.delete(id);
    chosen.delete(id);
  }
  known = now;
  tell();
  return new Set([...runs.map(row => row.id), ...removed]);
}

/** Choose a run for the comparison, or drop it from there. */
export function choose(id, isChosen = !chosen.has(id)) {
  if (isChosen) chosen.add(id);
  else chosen.delete(id);
  tell();
}

/** Drop the whole choice, or make it these runs. */
export function chooseOnly(ids = []) {
  chosen.clear();
  for (const id of ids) chosen.add(id);
  tell();
}

function tell() {
  for (const act of listeners) act();
}

/** What the filter looks for words in, made once per row. */
function wordsOf(row) {
  return [row.id, row.name, row.state, row.profile, row.exit_reason, ...(row.tags ?? [])]
    .filter(Boolean).join("\n").toLowerCase();
}
