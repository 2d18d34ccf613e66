// Asking the server, or, in an exported page, the answers it came with.

import { at } from "./dom.js";

const KEY = "forge-ui-token";
const embedded = document.getElementById("snapshot");

/** The content of an exported page: `view` and `answers` by address; null on a live page. */
export const snapshot = embedded ? JSON.parse(embedded.textContent) : null;

/** Return the address of something of a run, as the server knows it. */
export const runPath = (id, part = "") =>
  `api/runs/${encodeURIComponent(id)}${part ? `/${part}` : ""}`;

/** Return the query string of a request; values may be lists. */
export function queryText(query) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(query))
    for (const item of [value].flat())
      if (item !== undefined && item !== null) parts.append(name, item);
  return parts.size ? `?${parts}` : "";
}

/** Return the JSON at an address. An error has the server's own words. */
export async function ask(path, query = {}, {signal} = {}) {
  if (snapshot) return fromSnapshot(query.where ? `${path}?where` : path);
  const response = await request(path + queryText(query), {signal});
  return response.json();
}

/** Return the response at an address, once a token was given if the server asks for one. */
export async function request(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEY);
    const headers = token ? {Authorization: `Bearer ${token}`} : {};
    const response = await fetch(path, {...options, headers, cache: "no-store"});
    if (response.ok) return response;
    if (response.status !== 401) throw new Error(await problem(response));
    await askForToken(token);
  }
}

function fromSnapshot(path) {
  if (path in snapshot.answers) return structuredClone(snapshot.answers[path]);
  throw new Error("this page was exported without it");
}

async function problem(response) {
  try { return (await response.json()).error.message; }
  catch { return `the server answered ${response.status}`; }
}

let asking = null;

/** Show the dialog once, however many requests wait; a token that was refused is dropped. */
function askForToken(refused) {
  if (refused && refused === sessionStorage.getItem(KEY)) sessionStorage.removeItem(KEY);
  else if (sessionStorage.getItem(KEY)) return Promise.resolve();
  asking ??= new Promise(resolve => {
    const dialog = at("token-dialog"), field = at("token");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, field.value.trim());
      field.value = "";
      asking = null;
      resolve();
    }, {once: true});
    dialog.addEventListener("cancel", event => event.preventDefault());
    if (!dialog.open) dialog.showModal();
  });
  return asking;
}
