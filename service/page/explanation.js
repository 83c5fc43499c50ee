// The heat map panel: which parts of the image support a label.

import { $, isolated, make, pending, problemBox } from "./elements.js";
import { paintColorbar, paintHeatmap } from "./heatmap.js";
import { callApi, uploadOptions, withProblems } from "./service.js";

let image = null; // the bytes of the explained image
let controller = new AbortController(); // of the current explanation

/** Explains a newly classified image with the default label and method; `predictions` are the labels to choose from. */
export function explainImage(bytes, predictions) {
  image = bytes;
  $("heat-label").replaceChildren(...predictions.map(({ label }) => make("option", { value: label }, label)));
  $("heat-controls").hidden = true;
  return explain({});
}

/** Hides the panel and cancels the pending explanation. */
export function cancelExplanation() {
  controller.abort();
  $("heat").hidden = $("overlay").hidden = true;
}

function explain(options) {
  controller.abort();
  const { signal } = (controller = new AbortController());
  $("heat").hidden = false;
  $("heat-state").replaceChildren(pending("Computing the heat map …"));
  return withProblems(async () => {
    const explanation = await callApi(`v1/explain?${new URLSearchParams(options)}`, uploadOptions(image, signal));
    signal.throwIfAborted();
    showExplanation(explanation, options);
  }, (problem) => showExplainProblem(problem, options));
}

/** Hides the panel if the model supports no explanation; shows the problem if the user selected the label or method. */
function showExplainProblem(problem, options) {
  const unsupported = [404, 422].includes(problem.status) && !options.label;
  $("heat").hidden = unsupported;
  $("overlay").width = 0; // removes the heat map of the previous selection
  $("heat-state").replaceChildren(...(unsupported ? [] : [problemBox(problem, () => explain(options))]));
}

function showExplanation(explanation, options) {
  const { label, method } = explanation;
  // Every network supports occlusion, so there is a choice only if CAM was the default.
  if (!options.method) $("heat-methods").hidden = method !== "cam";
  $("heat-method").value = method;
  $("heat-label").value = label;
  $("heat-controls").hidden = false;
  $("heat-outside").hidden = !isCropped(explanation);
  const values = positiveEvidence(explanation);
  const empty = values.flat().every((value) => value === 0);
  $("heat-state").replaceChildren(empty ? make("p", { class: "soft" }, "No part of this image supports ", isolated(label), ".") : "");
  paintHeatmap($("overlay"), values, explanation);
  showOverlay();
}

/** The positive part of the map plus its bias: how much each position supports the label. */
function positiveEvidence({ map, bias = 0 }) {
  return map.map((row) => row.map((value) => Math.max(0, value + bias)));
}

/** Whether the model's input leaves out a part of the image; half a pixel does not count. */
function isCropped({ region: { left, top, width, height }, image }) {
  return left > 0.5 || top > 0.5 || left + width < image.width - 0.5 || top + height < image.height - 0.5;
}

function showOverlay() {
  $("overlay").hidden = $("heat-toggle").getAttribute("aria-pressed") !== "true";
  $("overlay").style.opacity = $("heat-opacity").value / 100;
}

export function connectHeatmapControls() {
  const explainSelection = () => explain({ label: $("heat-label").value, method: $("heat-method").value });
  $("heat-label").addEventListener("change", explainSelection);
  $("heat-method").addEventListener("change", explainSelection);
  $("heat-opacity").addEventListener("input", showOverlay);
  $("heat-toggle").addEventListener("click", ({ currentTarget: toggle }) => {
    toggle.setAttribute("aria-pressed", String(toggle.getAttribute("aria-pressed") !== "true"));
    showOverlay();
  });
  paintColorbar($("ramp"));
}
