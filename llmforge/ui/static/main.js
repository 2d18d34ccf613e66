// Starts the page: which view is shown follows the address.

import { ask, queryText, request, snapshot } from "./api.js";
import { compareView } from "./compare-view.js";
import { at, fill, h, notify } from "./dom.js";
import { startKeys } from "./keys.js";
import { hush, listen } from "./live.js";
import { place } from "./router.js";
import { runView } from "./run-view.js";
import { runsView } from "./runs-view.js";
import { chosen, load, whenRowsChange } from "./store.js";
import { sweepsView, sweepView } from "./sweeps-view.js";
import { startTheme } from "./theme.js";

const VIEWS = {runs: runsView, run: runView, compare: compareView, sweeps: sweepsView, sweep: sweepView};
const NONE = {title: "", keys: {}, close: () => {}};
const main = at("main");
let view = NONE, number = 0, leave = new AbortController();

async function show() {
  const {name, id} = place();
  const mine = ++number;
  leave.abort(); // what a view still waits for nobody needs any more
  const {signal} = leave = new AbortController();
  hush();
  view.close();
  view = NONE;
  at("export").hidden = true;
  for (const link of document.querySelectorAll("[data-view]")) {
    const isHere = link.dataset.view === name || link.dataset.view === `${name}s`;
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const box = h("div", {class: "view"});
  const put = content => { main.className = ""; fill(main, content); };
  const slow = setTimeout(() => put(h("p", {class: "faint", role: "status"}, "Reading…")), 300);
  /** For a view that can show its frame while the rest of it is still asked for. */
  const reveal = () => {
    if (mine !== number || box.isConnected) return;
    clearTimeout(slow);
    main.scrollTop = 0; // before there is anything new to lay out
    put(box);
  };
  try {
    const made = await (VIEWS[name] ?? unknownView)(name === "runs" ? main : box, id, {reveal, signal});
    if (mine !== number) { made.close(); return; }
    view = made;
    if (name !== "runs") reveal();
    // The stream reads what the view reads: it comes after what is waited for.
    Promise.resolve(view.live?.after).then(() => {
      if (mine === number) listen(made.live?.runs ?? [], made.live?.on ?? {});
    });
    document.title = view.title ? `${view.title} · forge` : "forge ui";
    at("export").hidden = !view.exported || Boolean(snapshot);
  } catch (error) {
    if (mine === number) put(h("p", {class: "problem", role: "alert"}, error.message));
  } finally {
    clearTimeout(slow);
  }
}

async function unknownView(box) {
  fill(box, h("p", {}, "There is no such view. ", h("a", {href: "#/runs"}, "To the runs")));
  return NONE;
}

async function save() {
  at("export").disabled = true;
  try {
    const asked = {...view.exported, view: location.hash.slice(1)};
    const page = await (await request(`api/export${queryText(asked)}`)).blob();
    const link = h("a", {href: URL.createObjectURL(page), download: `${document.title.split(" · ")[0]}.html`});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    notify(error.message, "problem");
  }
  at("export").disabled = false;
}

async function start() {
  startTheme();
  startKeys(() => view.keys ?? {});
  at("export").addEventListener("click", save);
  whenRowsChange(() => {
    at("chosen-count").textContent = chosen.size;
    at("chosen-count").hidden = !chosen.size;
  });
  if (snapshot && !location.hash) history.replaceState(null, "", `#${snapshot.view}`);
  window.addEventListener("hashchange", show);
  try {
    const [status] = await Promise.all([ask("api/status"), load()]);
    at("place").textContent = status.root || "exported page";
    at("place").title = `llmforge ${status.version}`;
  } catch (error) {
    notify(error.message, "problem");
  }
  await show();
}

start();
