// The heat map's panel: what in the image speaks for a label.

import { $, make, pending, problemBox } from "./elements.js";
import { paint, paintRamp } from "./heatmap.js";
import { ask, attempt, upload } from "./service.js";

let image = null; // the bytes that are explained
let asked = new AbortController(); // of the one map that is wanted now

/** Explains a newly classified image, as the service thinks best; `predictions` are the labels to choose from. */
export function explainImage(bytes, predictions) {
  image = bytes;
  $("heat-label").replaceChildren(...predictions.map(({ label }) => make("option", { value: label }, label)));
  $("heat-controls").hidden = true;
  return explain({});
}

/** Takes the panel away, and with it whatever is still being asked. */
export function stopExplaining() {
  asked.abort();
  $("heat").hidden = $("overlay").hidden = true;
}

function explain(chosen) {
  asked.abort();
  const { signal } = (asked = new AbortController());
  $("heat").hidden = false;
  $("heat-state").replaceChildren(pending("Finding what speaks for it …"));
  return attempt(async () => {
    const explanation = await ask(`v1/explain?${new URLSearchParams(chosen)}`, upload(image, signal));
    signal.throwIfAborted();
    showExplanation(explanation, chosen);
  }, (problem) => showUnexplained(problem, chosen));
}

/** What this model cannot explain at all is no news to a visitor; a choice of theirs that fails is. */
function showUnexplained(problem, chosen) {
  const cannot = [404, 422].includes(problem.status) && !chosen.label;
  $("heat").hidden = cannot;
  $("overlay").width = 0; // what still lies there is the map of another choice
  $("heat-state").replaceChildren(...(cannot ? [] : [problemBox(problem, () => explain(chosen))]));
}

function showExplanation(explanation, chosen) {
  const { label, method } = explanation;
  // Occlusion is possible for every network, so only where activations came unasked is there a choice.
  if (!chosen.method) $("heat-methods").hidden = method !== "cam";
  $("heat-method").value = method;
  $("heat-label").value = label;
  $("heat-controls").hidden = false;
  $("heat-outside").hidden = !leavesOut(explanation);
  const values = speaking(explanation);
  const empty = values.flat().every((value) => value === 0);
  $("heat-state").replaceChildren(empty ? make("p", { class: "soft" }, `Nothing in this image speaks for ${label}.`) : "");
  paint($("overlay"), values, explanation);
  showOverlay();
}

/** How much each part speaks for the label, 0 where it does not: of activations, were the whole image like that part. */
function speaking({ map, bias = 0 }) {
  return map.map((row) => row.map((value) => Math.max(0, value + bias)));
}

/** Whether there is a part of the image that the model did not look at; half a pixel is none. */
function leavesOut({ region: { left, top, width, height }, image }) {
  return left > 0.5 || top > 0.5 || left + width < image.width - 0.5 || top + height < image.height - 0.5;
}

function showOverlay() {
  $("overlay").hidden = $("heat-toggle").getAttribute("aria-pressed") !== "true";
  $("overlay").style.opacity = $("heat-opacity").value / 100;
}

export function listenToHeat() {
  const explainChosen = () => explain({ label: $("heat-label").value, method: $("heat-method").value });
  $("heat-label").addEventListener("change", explainChosen);
  $("heat-method").addEventListener("change", explainChosen);
  $("heat-opacity").addEventListener("input", showOverlay);
  $("heat-toggle").addEventListener("click", ({ currentTarget: toggle }) => {
    toggle.setAttribute("aria-pressed", String(toggle.getAttribute("aria-pressed") !== "true"));
    showOverlay();
  });
  paintRamp($("ramp"));
}
