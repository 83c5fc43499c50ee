// The result for one image: probabilities, prediction set, outlier score, warnings, and timing.

import { $, isolated, make, percent, showChips, showDetails } from "./elements.js";

/** Shows the result and returns a summary for screen readers.

    result: the response of v1/classify; model: the response of v1/model; bytes: size of the file; elapsed: ms of the request. */
export function showResult(result, model, bytes, elapsed) {
  $("result").replaceChildren(
    ...(result.abstain ? [abstention(result, model.calibration)] : []),
    probabilityBars(result),
    predictionSet(result, model),
    outlierScale(result.outlier_score, model.calibration.outlier_threshold),
    make("ul", { class: "warnings" }, ...result.warnings.map((text) => make("li", {}, text))),
    requestDetails(result, bytes, elapsed),
  );
  const [{ label, probability }] = result.predictions;
  const top = `${label}, ${percent(probability)}`;
  const verdict = [isolated(label), `, ${percent(probability)}`];
  const abstains = result.abstain_reason === "unsure" ? "Unsure" : "The model abstains";
  $("verdict").replaceChildren(...(result.abstain ? [`${abstains} (`, ...verdict, ")"] : verdict));
  if (result.abstain) return `${abstains}. The most probable label is ${top}.`;
  return `${top}. ${predictionSetText(result, model)} ${result.prediction_set.join(", ")}.`;
}

function abstention({ abstain_reason: reason, outlier_score: score }, calibration) {
  const threshold = calibration.outlier_threshold.toFixed(2);
  const explanation = reason === "outlier"
    ? `This image is unlike the training images: its outlier score is ${score.toFixed(2)}, above ${threshold}.`
    : `Answers with such a low probability may be wrong in more than ${percent(calibration.max_error)} of the cases.`;
  const title = reason === "outlier" ? "The model abstains" : "The model is unsure";
  return make("div", { class: "abstention" }, make("p", { class: "title" }, title), make("p", {}, explanation));
}

/** The most probable labels; those in the prediction set have the accent color. */
function probabilityBars({ predictions, prediction_set: set, abstain }) {
  const bar = ({ label, probability }) => {
    const track = make("span", { class: "track", "aria-hidden": "true" });
    track.style.setProperty("--share", probability);
    const number = make("span", { class: "number" }, percent(probability));
    const attributes = set.includes(label) && !abstain ? { class: "in-set" } : {};
    return make("li", attributes, make("span", { class: "label" }, isolated(label)), number, track);
  };
  return make("ol", { class: "bars", "aria-label": "Most probable labels" }, ...predictions.map(bar));
}

function predictionSet(result, model) {
  const chips = make("ul", { class: "chips" });
  showChips(chips, result.prediction_set);
  return make("div", { class: "set" }, make("p", {}, predictionSetText(result, model)), chips);
}

function predictionSetText({ prediction_set: set, abstain_reason: reason }, { multilabel, labels, calibration }) {
  if (multilabel) return set.length ? "Predicted labels:" : "No predicted labels: all are below their thresholds.";
  if (set.length === labels.length) return "No label can be ruled out:";
  const coverage = `${+(100 * calibration.coverage).toFixed(1)}%`;
  if (reason === "outlier") return `Prediction set; the ${coverage} coverage does not hold for outliers:`;
  return `Prediction set (${coverage} coverage):`;
}

/** The outlier score on a scale that extends beyond the threshold. */
function outlierScale(score, threshold) {
  const end = Math.max(1.5 * threshold, 1.1 * score);
  const scale = make("span", { class: "scale", "aria-hidden": "true" }, make("span", { class: "point" }));
  scale.style.setProperty("--score", score / end);
  scale.style.setProperty("--threshold", threshold / end);
  const note = make("span", { class: "soft" }, `${score.toFixed(2)} (threshold ${threshold.toFixed(2)})`);
  const classes = score > threshold ? "outlier-score above" : "outlier-score";
  return make("div", { class: classes }, make("p", {}, "Outlier score ", note), scale);
}

function requestDetails({ image, timing_ms: timing, request_id: request }, bytes, elapsed) {
  const stages = Object.entries(timing).map(([stage, ms]) => `${stage} ${ms.toFixed(1)}`);
  const kibibytes = Math.ceil(bytes / 1024).toLocaleString("en");
  const list = make("dl", { class: "measured" });
  showDetails(list, [
    ["Image", `${image.width} × ${image.height} ${image.format}, ${kibibytes} KiB`],
    ["Latency (ms)", [...stages, `round trip ${elapsed.toFixed(0)}`].join(", ")],
    ["Request ID", request],
  ]);
  return list;
}
