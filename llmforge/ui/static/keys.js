// Keys that act on a view, and the dialog that lists them.

import { at, fill, h } from "./dom.js";

const HELP = [
  ["/", "to the filter"], ["j", "the next run"], ["k", "the run before"], ["Enter", "open the run"], ["x", "select the run, or not"],
  ["c", "compare the selected runs"], ["Esc", "clear the filter or the selection, or go back"], ["?", "this help"],
];

/** Start listening; `keysOfView()` returns what the present view does at which key. */
export function startKeys(keysOfView) {
  const dialog = at("help");
  fill(dialog, h("h2", {id: "help-title"}, "Keys"),
    h("table", {class: "facts"}, h("tbody", {}, HELP.map(([key, text]) => h("tr", {}, h("td", {}, h("kbd", {}, key)), h("td", {}, text))))),
    h("p", {class: "faint"}, "In a chart: drag to look at a stretch, double click for the whole curve. The filter takes words, ",
      h("code", {}, "-word"), " for runs without it, and comparisons such as ", h("code", {}, "val/loss<3.3"), ", ",
      h("code", {}, "state=running"), " or ", h("code", {}, "tag:base"), ", also of recipe keys. After ", h("code", {}, "where"), " it takes an expression as ", h("code", {}, "forge runs list --where"), " does."),
    h("form", {method: "dialog"}, h("button", {}, "Close")));
  at("help-button").addEventListener("click", () => dialog.showModal());

  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const target = event.target;
    const isWriting = target.matches("input:not([type=checkbox]):not([type=range]), textarea, select");
    if (isWriting && event.key !== "Escape") return;
    if (event.key === "Enter" && target.closest("a, button, summary, input")) return;
    if (isWriting) target.blur();
    if (event.key === "?") { dialog.showModal(); return; }
    const act = keysOfView()[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}
