// Light, dark, or as the system says.

import { at } from "./dom.js";

const KEY = "forge-ui-theme";
const CHOICES = {auto: ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"]};
const changed = new Set();

/** Call `act` when the colours change, until the returned function is called. */
export function whenColoursChange(act) {
  changed.add(act);
  return () => changed.delete(act);
}

const colours = new Map();

/** Return a colour of the style sheet by its name there; asking the browser would lay the page out. */
export function colour(name) {
  if (!colours.has(name))
    colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return colours.get(name);
}

/** The number of colours for lines, `--line-0` and so on. */
export const LINE_COLOURS = 8;

export const lineColour = index => colour(`line-${index % LINE_COLOURS}`);

/** Set the button up. */
export function startTheme() {
  show(kept());
  at("theme").addEventListener("click", () => {
    const names = Object.keys(CHOICES);
    const next = names[(names.indexOf(kept()) + 1) % names.length];
    try { localStorage.setItem(KEY, next); } catch { /* a page opened as a file may not */ }
    show(next);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
}

let chosen = null;

function kept() {
  if (chosen) return chosen;
  try { return localStorage.getItem(KEY) in CHOICES ? localStorage.getItem(KEY) : "auto"; }
  catch { return "auto"; }
}

function show(name) {
  chosen = name;
  const [sign, words] = CHOICES[name];
  document.documentElement.dataset.theme = name;
  at("theme").textContent = sign;
  at("theme").title = at("theme").ariaLabel = `Colours: ${words}`;
  tell();
}

function tell() {
  colours.clear();
  for (const act of changed) act();
}
