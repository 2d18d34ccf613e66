// Having the server read the curves of a run that is likely to be opened next: it keeps what it read.

import { ask, runPath, snapshot } from "./api.js";

const REST = 80; // milliseconds that the pointer stays on a link before it counts
const read = new Set();
let waiting = 0;

/** Have the curves of a run read, once per page: a file that grew since is read from there on. */
export function foresee(id) {
  if (snapshot || read.has(id)) return;
  read.add(id);
  ask(runPath(id, "curves"), {points: 4, along: "step"}).catch(() => read.delete(id)); // opening it tells why
}

/** Return listeners for a link to a run. */
export const foreseen = id => ({
  onpointerenter: () => { waiting = setTimeout(foresee, REST, id); },
  onpointerleave: () => clearTimeout(waiting),
});
