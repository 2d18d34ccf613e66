// Making elements. Text only ever becomes text nodes: nothing of a run is read as HTML.

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected", "indeterminate", "open"]);

/** Return an element; `attributes` may hold listeners (`onclick`) and properties (`checked`). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...flat(children));
  return element;
}

/** Put other children into an element. */
export function fill(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

export const at = id => document.getElementById(id);

/** Return a link to an address that a run names, as plain text unless a browser may go there. */
export function outwardLink(address, text = address) {
  if (!/^https?:\/\//i.test(address)) return h("code", {}, text);
  return h("a", {href: address, rel: "noreferrer noopener", target: "_blank"}, text);
}

/** Show a message for a while. */
export function notify(text, kind = "") {
  const line = h("p", {class: `message ${kind}`}, text);
  at("messages").append(line);
  setTimeout(() => line.remove(), kind === "problem" ? 12000 : 5000);
}

/** Return a function that runs `act` at most once per animation frame. */
export function oncePerFrame(act) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; act(); });
  };
}

function flat(children) {
  return children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false);
}
