// The rows of a long table that are in sight; the others are only as high as they would be.

import { fill, h, oncePerFrame } from "./dom.js";

const ROW = 31; // pixels: 30 and the line below
const BEYOND = 12; // rows drawn above and below those in sight

/**
 * Return an object that keeps `body` filled with the rows of `list` in sight.
 * `draw(item, index)` returns the <tr> of one; `scroller` is what scrolls.
 */
export function virtualRows({scroller, body, columns, draw}) {
  let list = [], first = -1, last = -1;

  const gap = height => {
    const cell = h("td", {colspan: columns()});
    cell.style.height = `${height}px`;
    return h("tr", {class: "space", "aria-hidden": "true"}, cell);
  };

  function show(force = false) {
    const from = Math.max(0, Math.floor(scroller.scrollTop / ROW) - BEYOND);
    const to = Math.min(list.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW) + BEYOND);
    if (!force && from === first && to === last) return;
    [first, last] = [from, to];
    const focused = body.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    const shown = [];
    for (let index = from; index < to; index++) shown.push(draw(list[index], index));
    fill(body, from ? gap(from * ROW) : null, shown, to < list.length ? gap((list.length - to) * ROW) : null);
    if (focused) body.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({preventScroll: true});
  }

  scroller.addEventListener("scroll", oncePerFrame(() => show()), {passive: true});
  const sizes = new ResizeObserver(() => show());
  sizes.observe(scroller);

  return {
    /** Show another list. */
    set(items) { list = items; show(true); },
    /** Draw the rows in sight again. */
    redraw() { show(true); },
    /** Bring a row into sight. */
    reveal(index) {
      const top = index * ROW, head = 36;
      if (top < scroller.scrollTop) scroller.scrollTop = top;
      else if (top + ROW + head > scroller.scrollTop + scroller.clientHeight)
        scroller.scrollTop = top + ROW + head - scroller.clientHeight;
      show();
    },
    close() { sizes.disconnect(); },
  };
}
