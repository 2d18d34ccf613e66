// The address of a view: `#/run/ID?x=tokens`. A link holds everything that can be chosen in it.

/** Return the parts of the present address. */
export function place() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decoded);
  return {name: parts[0] ?? "runs", id: parts[1] ?? "", query: new URLSearchParams(query)};
}

/** Return the address of a view. */
export function address(name, id = "", query = {}) {
  const parts = new URLSearchParams();
  for (const [key, value] of Object.entries(query))
    for (const item of [value].flat()) if (item) parts.append(key, item);
  return `#/${name}${id ? `/${encodeURIComponent(id)}` : ""}${parts.size ? `?${parts}` : ""}`;
}

/** Go to another view. */
export function go(name, id = "", query = {}) {
  location.hash = address(name, id, query);
}

/** Note a choice in the address, without a step in the history; empty values are left out. */
export function note(changes) {
  const {name, id, query} = place();
  for (const [key, value] of Object.entries(changes)) {
    query.delete(key);
    for (const item of [value].flat()) if (item) query.append(key, item);
  }
  const text = query.size ? `?${query}` : "";
  const hash = `#/${name}${id ? `/${encodeURIComponent(id)}` : ""}${text}`;
  if (hash !== location.hash) history.replaceState(null, "", hash);
}

function decoded(part) {
  try { return decodeURIComponent(part); }
  catch { return part; }
}
