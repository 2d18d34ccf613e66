// The filter of the table of runs: words that must occur, and comparisons such as val/loss<3.3.

import { valueOf } from "./columns.js";

const COMPARISON = /^([\w./-]+?)(<=|>=|!=|=|<|>|:)(.+)$/;

/** Return a function that says whether a row matches the text. */
export function matcher(text) {
  const parts = text.trim().split(/\s+/).filter(Boolean).map(partOf);
  return row => parts.every(part => part(row));
}

function partOf(part) {
  const found = COMPARISON.exec(part);
  if (!found) {
    const word = part.toLowerCase();
    return word.startsWith("-") && word.length > 1
      ? row => !row.words.includes(word.slice(1))
      : row => row.words.includes(word);
  }
  const [, name, sign, wanted] = found;
  const numeric = Number(wanted), low = wanted.toLowerCase();
  return row => {
    const value = valueOf(row, name);
    if (value === null || value === undefined || value === "") return sign === "!=";
    if (typeof value === "number" && !Number.isNaN(numeric)) return COMPARE[sign](value, numeric);
    const own = String(value).toLowerCase();
    return sign === ":" ? own.includes(low) : COMPARE[sign](own, low);
  };
}

const COMPARE = {
  "<": (a, b) => a < b,
  ">": (a, b) => a > b,
  "<=": (a, b) => a <= b,
  ">=": (a, b) => a >= b,
  "=": (a, b) => a === b,
  "!=": (a, b) => a !== b,
  ":": (a, b) => String(a).includes(String(b)),
};
