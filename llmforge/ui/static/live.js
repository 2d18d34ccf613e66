// The stream of events: one per page, closed while the page is hidden, opened again when it breaks.
// It is read with fetch because EventSource cannot send a token.

import { queryText, request, snapshot } from "./api.js";
import { at } from "./dom.js";
import { take, version } from "./store.js";

const LONGEST_WAIT = 15000;
let listeners = {}, watched = [], current = null, wait = 500, wasOpen = false;

/**
 * Listen for changes of the table and of the given runs; replaces what was listened to before.
 * `again` is called when the stream opens a second time: what a view shows may have changed.
 */
export function listen(runs, on) {
  watched = runs;
  listeners = on;
  wasOpen = false;
  reopen();
}

/** Listen to nothing. */
export function hush() {
  current?.abort();
  current = null;
}

function reopen() {
  hush();
  if (snapshot || document.hidden) return;
  current = new AbortController();
  follow(current.signal);
}

async function follow(signal) {
  while (!signal.aborted) {
    try {
      const response = await request(`api/events${queryText({run: watched, since: version()})}`, {signal});
      for await (const [name, body] of events(response)) {
        if (signal.aborted) return;
        wait = 500;
        say("live");
        if (name === "ready") {
          if (wasOpen) listeners.again?.();
          wasOpen = true;
        } else if (name === "rows") {
          const changed = take(body); // whoever listens or not
          listeners.rows?.(changed);
        } else listeners[name]?.(body);
      }
    } catch (error) {
      if (signal.aborted) return;
      console.debug("the stream of events ended:", error.message);
    }
    if (signal.aborted) return;
    say("not connected: trying again");
    await new Promise(resolve => setTimeout(resolve, wait));
    wait = Math.min(2 * wait, LONGEST_WAIT);
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(
        part.split("\n").map(line => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]));
      if (fields.event) yield [fields.event, JSON.parse(fields.data)];
    }
  }
}

function say(text) {
  const place = at("connection");
  if (place.textContent === text) return;
  place.textContent = text;
  place.classList.toggle("is-live", text === "live");
}

document.addEventListener("visibilitychange", reopen);
