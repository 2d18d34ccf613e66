// What the model wrote while it was trained, step by step, and how it fares in its tests.

import { ask, runPath } from "./api.js";
import { fill, h } from "./dom.js";
import { number } from "./format.js";
import { note, place } from "./router.js";

/** Fill the panel with the texts of one step; another is chosen with a slider. */
export async function drawSamples(panel, id) {
  const {samples, left_out: leftOut, problems} = await ask(runPath(id, "samples"));
  const steps = [...new Set(samples.map(item => item.step))].sort((a, b) => a - b);
  const trouble = problems.map(text => h("p", {class: "problem"}, text));
  if (!steps.length) return fill(panel, trouble, h("p", {class: "faint"}, "No samples yet."));
  const asked = steps.indexOf(Number(place().query.get("step")));
  const shown = h("div"), label = h("output");
  const slider = h("input", {
    type: "range", min: 0, max: steps.length - 1, step: 1, value: asked < 0 ? steps.length - 1 : asked,
    "aria-label": "Step of the samples", oninput: show,
  });
  function show() {
    const step = steps[slider.value];
    label.textContent = `step ${number(step)}`;
    note({step: slider.value == steps.length - 1 ? "" : step});
    fill(shown, samples.filter(item => item.step === step).map(sample));
  }
  fill(panel, trouble,
    h("div", {class: "bar"}, h("label", {}, "Samples at ", slider, label),
      leftOut ? h("span", {class: "faint"}, `${number(leftOut)} earlier ones are in samples.jsonl`) : null), shown);
  show();
}

function sample(item) {
  const facts = [
    item.tokens === undefined ? "" : `${item.tokens} tokens`, item.finish ?? "",
    item.distinct_2 === undefined ? "" : `distinct-2 ${number(item.distinct_2, 2)}`,
  ].filter(Boolean).join(" · ");
  return h("article", {class: "card sample"},
    h("div", {}, h("span", {class: "prompt"}, text(item.prompt)), text(item.text)), h("p", {class: "faint"}, facts));
}

/** Fill the panel with the newest generation tests. */
export async function drawTests(panel, id) {
  const {report, problems} = await ask(runPath(id, "tests"));
  const trouble = problems.map(text_ => h("p", {class: "problem"}, text_));
  const tests = report?.tests ?? [];
  if (!tests.length) return fill(panel, trouble, h("p", {class: "faint"}, "No generation tests."));
  const step = report.step ?? report.checkpoint?.step;
  fill(panel, trouble,
    h("p", {}, [summary(tests), step === undefined ? "" : `at step ${number(step)}`].filter(Boolean).join(", ")),
    tests.map(item => h("article", {class: "card sample"},
      h("h3", {}, text(item.name)),
      h("div", {class: "prompt"}, text(item.prompt)),
      h("div", {}, text(item.response)),
      h("p", {}, Object.entries(item.checks ?? {}).map(([name, check]) => verdict(name, check))))));
}

function summary(tests) {
  const checked = tests.filter(item => Object.keys(item.checks ?? {}).length);
  const passed = checked.filter(item => Object.values(item.checks).every(isPassed));
  return checked.length ? `${passed.length} of ${checked.length} tests passed` : `${tests.length} tests without checks`;
}

const isPassed = check => check === true || check?.passed === true;

function verdict(name, check) {
  return h("span", {class: isPassed(check) ? "better" : "worse"}, `${isPassed(check) ? "✓" : "✕"} ${name}  `);
}

function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value ?? "");
}
