// The end of a run's log; it is followed while its last line is in sight.

import { ask, runPath } from "./api.js";
import { fill, h } from "./dom.js";

const MOST = 400_000; // characters kept on the page

/** Fill the panel; returns a function that reads what the log has more. */
export function drawLog(panel, id) {
  const view = h("pre", {class: "text log", tabindex: "0", "aria-label": "Log"});
  const follow = h("input", {type: "checkbox", checked: true, onchange: () => { if (follow.checked) toEnd(); }});
  let end, reading = null;
  const toEnd = () => { view.scrollTop = view.scrollHeight; };

  view.addEventListener("scroll", () => {
    follow.checked = view.scrollHeight - view.scrollTop - view.clientHeight < 40;
  }, {passive: true});
  fill(panel, h("div", {class: "bar"}, h("label", {}, follow, "Follow")), view);

  async function read() {
    const {text, begin, end: until} = await ask(runPath(id, "log"), {begin: end});
    if (begin !== end) view.textContent = "";
    end = until;
    if (text) view.append(text);
    if (view.textContent.length > MOST) view.textContent = view.textContent.slice(-MOST / 2);
    if (!view.textContent) view.textContent = "";
    view.dataset.empty = String(!view.textContent);
    if (follow.checked) toEnd();
  }

  // One after the other: two answers at once would both append the same lines.
  const more = () => (reading = (reading ?? Promise.resolve()).then(read).catch(error => { view.textContent = error.message; }));
  more();
  return more;
}
