// The stream of events: one per page, closed while the page is hidden, opened again when it breaks.
// It is read with fetch because EventSource cannot send a token.

import { queryText, request, snapshot } from "./api.js";
import { at } from "./dom.js";

const LONGEST_WAIT = 15000;
let listeners = {}, watched = [], current = null, wait = 500;

/**
 * Listen for changes of the table and of the given runs; replaces what was listened to before.
 * `ready` is called whenever the stream opens: what changed before has to be asked for then.
 */
export function listen(runs, on) {
  watched = runs;
  listeners = on;
  reopen();
}

function reopen() {
  current?.abort();
  current = null;
  if (snapshot || document.hidden) return;
  current = new AbortController();
  follow(current.signal);
}

async function follow(signal) {
  while (!signal.aborted) {
    try {
      const response = await request(`api/events${queryText({run: watched})}`, {signal});
      for await (const [name, body] of events(response)) {
        if (signal.aborted) return;
        wait = 500;
        say("live");
        listeners[name]?.(body);
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
