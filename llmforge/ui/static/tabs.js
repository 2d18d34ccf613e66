// Tabs: one panel in sight, the arrow keys move between them.

import { fill, h } from "./dom.js";

/**
 * Return tabs. Each of `items` is {key, title, draw}; `draw(panel)` fills the panel when it is shown
 * and may return a function that ends what it started. `onShow(key)` is told which one is shown.
 */
export function tabs(items, first, onShow) {
  const panel = h("div", {role: "tabpanel", id: "tab-panel", tabindex: "-1"});
  let end = null, current = null;

  const buttons = items.map((item, index) => h("button", {
    type: "button", role: "tab", id: `tab-${item.key}`, "aria-controls": "tab-panel",
    onclick: () => show(item.key),
    onkeydown: event => {
      const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
      if (!by) return;
      const next = (index + by + items.length) % items.length;
      buttons[next].focus();
      show(items[next].key);
    },
  }, item.title));

  function show(key) {
    end?.();
    current = items.find(item => item.key === key) ?? items[0];
    items.forEach((item, index) => {
      buttons[index].setAttribute("aria-selected", String(item === current));
      buttons[index].tabIndex = item === current ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", `tab-${current.key}`);
    end = current.draw(fill(panel)) ?? null;
    onShow(current.key);
  }

  const element = h("div", {}, h("div", {class: "tabs", role: "tablist"}, buttons), panel);
  show(first);
  return {element, show, current: () => current.key, close: () => end?.()};
}
