// The table of runs: filter, order, columns, choice, and a row that the keys move.

import { available, column, defaults, RUN, sorted } from "./columns.js";
import { foresee, foreseen } from "./curve-request.js";
import { fill, h, oncePerFrame } from "./dom.js";
import { matcher } from "./filter.js";
import { number } from "./format.js";
import { ask } from "./api.js";
import { address, go, note, place } from "./router.js";
import { choose, chosen, chooseOnly, rows, whenRowsChange } from "./store.js";
import { virtualRows } from "./virtual-rows.js";

/** Show the table in `main`; returns what the page may ask of the view. */
export function runsView(main) {
  main.classList.add("whole");
  const {query} = place();
  let text = query.get("q") ?? "";
  let sort = query.get("sort") ?? "started", reverse = query.get("reverse") === "1";
  let columns = query.get("columns")?.split(",") ?? defaults();
  let list = [], active = -1, shown = [];

  const search = h("input", {
    type: "search", value: text, placeholder: "Filter: words, val/loss<3.3, state=running, -failed, or where …",
    "aria-label": "Filter runs", oninput: event => { text = event.target.value; note({q: text}); select(); },
  });
  const trouble = h("span", {class: "problem", role: "alert"});
  const count = h("span", {class: "faint", role: "status"});
  const compareButton = h("button", {type: "button", class: "main", onclick: compare}, "Compare");
  const clearButton = h("button", {type: "button", onclick: () => chooseOnly()}, "Clear selection");
  const menu = h("details", {class: "menu", ontoggle: fillMenu},
    h("summary", {class: "button"}, "Columns"), h("div"));
  const head = h("thead"), body = h("tbody"), group = h("colgroup");
  const table = h("table", {class: "runs", "aria-label": "Runs"}, group, head, body);
  const scroller = h("div", {class: "scroll", tabindex: "-1"}, table);
  fill(main,
    h("div", {class: "bar"}, h("span", {class: "grow"}, search, trouble), count, clearButton, compareButton, menu), scroller);
  const virtual = virtualRows({scroller, body, columns: () => columns.length + 1, draw: drawRow});

  let held = null, waiting = 0; // ids that the expression after "where" holds for

  /** Take another filter; an expression is the server's to judge, once no key followed for a moment. */
  function select() {
    clearTimeout(waiting);
    trouble.textContent = "";
    if (!isExpression()) { held = null; refresh(); return; }
    waiting = setTimeout(judge, 150);
  }

  const isExpression = () => /^where\s+\S/.test(text);

  async function judge() {
    const asked = text;
    try {
      const {ids} = await ask("api/runs", {where: asked.replace(/^where\s+/, "")});
      if (asked !== text) return;
      held = new Set(ids);
      refresh();
    } catch (error) {
      if (asked === text) trouble.textContent = error.message;
    }
  }

  function refresh() {
    const matches = isExpression() ? row => held === null || held.has(row.id) : matcher(text);
    const kept = active >= 0 ? list[active]?.id : null;
    list = sorted([...rows.values()].filter(matches), sort, reverse);
    active = kept ? list.findIndex(row => row.id === kept) : -1;
    table.setAttribute("aria-rowcount", list.length + 1);
    count.textContent = list.length === rows.size
      ? `${number(rows.size)} run${rows.size === 1 ? "" : "s"}`
      : `${number(list.length)} of ${number(rows.size)} runs`;
    compareButton.hidden = clearButton.hidden = !chosen.size;
    compareButton.textContent = `Compare ${chosen.size}`;
    virtual.set(list);
  }

  function drawHead() {
    shown = columns.map(column);
    const widths = [RUN, ...shown].map(item => item === RUN && innerWidth < 640 ? 140 : item.width);
    table.style.width = `${widths.reduce((sum, width) => sum + width)}px`;
    fill(group, widths.map(width => {
      const col = h("col");
      col.style.width = `${width}px`;
      return col;
    }));
    fill(head, h("tr", {}, [RUN, ...shown].map(item => {
      const isSorted = item.key === sort;
      const isDown = Boolean(item.down) !== reverse;
      return h("th", {
        scope: "col", class: item === RUN ? "name" : item.right ? "number" : null,
        "aria-sort": isSorted ? (isDown ? "descending" : "ascending") : null,
      }, h("button", {type: "button", title: `Sort by ${item.key}`, onclick: () => sortBy(item.key)},
        item.title, isSorted ? (isDown ? " ▾" : " ▴") : ""));
    })));
  }

  function sortBy(key) {
    reverse = key === sort ? !reverse : false;
    sort = key;
    note({sort, reverse: reverse ? "1" : ""});
    drawHead();
    refresh();
    scroller.scrollTop = 0;
  }

  function drawRow(row, index) {
    const box = h("input", {
      type: "checkbox", checked: chosen.has(row.id), "aria-label": `Select ${row.id}`, "data-focus": `box ${row.id}`,
      onclick: event => {
        event.stopPropagation();
        choose(row.id, event.target.checked);
        if (event.target.checked) foresee(row.id, {isOneOfSeveral: true});
      },
    });
    const name = h("td", {class: "name", title: row.name && row.name !== row.id ? `${row.id}\n${row.name}` : row.id},
      box, " ", h("a", {href: address("run", row.id), "data-focus": `link ${row.id}`, ...foreseen(row.id)}, row.id));
    return h("tr", {
      class: index === active ? "active" : null, "aria-rowindex": index + 2,
      onclick: event => { if (!event.target.closest("a, input")) setActive(index); },
      ondblclick: () => go("run", row.id),
    }, name, shown.map(item => h("td", {class: item.right ? "number" : null}, item.draw(row))));
  }

  function fillMenu() {
    if (!menu.open) return;
    const known = available();
    fill(menu.lastChild,
      Object.entries(known).map(([title, keys]) => keys.length ? h("fieldset", {}, h("legend", {}, title),
        keys.map(key => h("label", {}, h("input", {
          type: "checkbox", checked: columns.includes(key),
          onchange: event => {
            columns = event.target.checked ? [...columns, key] : columns.filter(item => item !== key);
            note({columns: columns.join(",")});
            drawHead();
            refresh();
          },
        }), " ", column(key).title))) : null),
      h("button", {type: "button", onclick: () => {
        columns = defaults();
        note({columns: ""});
        drawHead();
        refresh();
        fillMenu();
      }}, "Reset columns"));
  }

  function setActive(index) {
    active = Math.max(0, Math.min(list.length - 1, index));
    virtual.reveal(active);
    virtual.redraw();
  }

  function compare() {
    if (chosen.size) go("compare", "", {run: [...chosen]});
  }

  drawHead();
  refresh();
  if (isExpression()) judge();
  const stop = whenRowsChange(oncePerFrame(() => {
    if (!head.isConnected) return;
    if (isExpression()) judge();
    else refresh();
  }));
  return {
    title: "Runs",
    keys: {
      "/": () => { search.focus(); search.select(); },
      j: () => setActive(active + 1),
      k: () => setActive(active - 1),
      x: () => {
        if (!list[active]) return;
        choose(list[active].id);
        foresee(list[active].id, {isOneOfSeveral: true});
      },
      c: compare,
      Enter: () => { if (list[active]) go("run", list[active].id); },
      Escape: () => {
        if (menu.open) menu.open = false;
        else if (text) { search.value = text = ""; note({q: ""}); select(); }
        else if (chosen.size) chooseOnly();
      },
    },
    close: () => { stop(); virtual.close(); },
  };
}
