// Which metrics belong into one chart, and which charts are shown where nothing was chosen.

const MAIN = [
  {key: "loss", title: "Loss", names: ["train/loss", "val/loss"]},
  {key: "perplexity", title: "Perplexity", names: ["train/perplexity", "val/perplexity"]},
  {key: "lr", title: "Learning rate", names: ["lr"]},
  {key: "grad_norm", title: "Gradient norm", names: ["grad_norm"]},
  {key: "tokens_per_second", title: "Tokens per second", names: ["tokens_per_second"]},
];

/** Metrics that are worked out here from others: name, what from, how. */
export const DERIVED = {"train/perplexity": {from: "train/loss", apply: Math.exp}};

/** Return the charts there may be for these metrics: the main ones first, then one per metric. */
export function chartsOf(names) {
  const known = new Set(names);
  for (const [name, {from}] of Object.entries(DERIVED)) if (known.has(from)) known.add(name);
  const main = MAIN
    .map(chart => ({...chart, names: chart.names.filter(name => known.has(name))}))
    .filter(chart => chart.names.length);
  const used = new Set(main.flatMap(chart => chart.names));
  const others = [...known].filter(name => !used.has(name)).map(name => ({key: name, title: name, names: [name]}));
  return [...main, ...others];
}

/** Return the keys of the charts that are shown at first. */
export function shownAtFirst(charts) {
  const main = new Set(MAIN.map(chart => chart.key));
  return charts.filter(chart => main.has(chart.key)).map(chart => chart.key);
}

/** Return the metrics to ask for before it is known which a run has: of these charts, or the main ones. */
export function expectedFor(keys) {
  return neededFor(keys ? keys.map(key => MAIN.find(chart => chart.key === key) ?? {names: [key]}) : MAIN);
}

/** Return the metrics to ask the server for, so that these charts can be drawn. */
export function neededFor(charts) {
  return [...new Set(charts.flatMap(chart => chart.names).map(name => DERIVED[name]?.from ?? name))];
}
