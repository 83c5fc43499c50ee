// The answer to one image: how probable, which labels it may be, how familiar, and what it took.

import { $, make, percent, showChips, showFacts } from "./elements.js";

/** Shows it; returns it in a sentence.

    answer: what v1/classify said; model: what v1/model says; bytes: of the file; elapsed: ms from question to answer. */
export function showAnswer(answer, model, bytes, elapsed) {
  $("result").replaceChildren(
    ...(answer.abstain ? [abstention(answer, model.calibration)] : []),
    bars(answer),
    predictionSet(answer, model),
    familiarity(answer.outlier_score, model.calibration.outlier_threshold),
    make("ul", { class: "warnings" }, ...answer.warnings.map((text) => make("li", {}, text))),
    measured(answer, bytes, elapsed),
  );
  const [{ label, probability }] = answer.predictions;
  const best = `${label}, ${percent(probability)}`;
  $("verdict").textContent = answer.abstain ? `The model abstains (${best})` : best;
  if (answer.abstain) return `The model abstains. Its best guess is ${best}.`;
  return `${best}. ${setSentence(answer, model)} ${answer.prediction_set.join(", ")}.`;
}

function abstention({ abstain_reason: reason, outlier_score: score }, calibration) {
  const most = calibration.outlier_threshold.toFixed(2);
  const why = reason === "outlier"
    ? `This image is unlike the images it was trained on: its outlier score is ${score.toFixed(2)}, above ${most}.`
    : "It cannot rule out any label, so its best guess is little more than that.";
  return make("div", { class: "abstention" }, make("p", { class: "title" }, "The model abstains"), make("p", {}, why));
}

/** The most probable labels, those of the prediction set in the accent's colour. */
function bars({ predictions, prediction_set: set, abstain }) {
  const bar = ({ label, probability }) => {
    const track = make("span", { class: "track", "aria-hidden": "true" });
    track.style.setProperty("--share", probability);
    const number = make("span", { class: "number" }, percent(probability));
    const kept = set.includes(label) && !abstain ? { class: "kept" } : {};
    return make("li", kept, make("span", { class: "label" }, label), number, track);
  };
  return make("ol", { class: "bars", "aria-label": "Most probable labels" }, ...predictions.map(bar));
}

function predictionSet(answer, model) {
  const chips = make("ul", { class: "chips" });
  showChips(chips, answer.prediction_set);
  return make("div", { class: "set" }, make("p", {}, setSentence(answer, model)), chips);
}

function setSentence({ prediction_set: set, abstain_reason: reason }, { multilabel, labels, calibration }) {
  if (multilabel) return set.length ? "It is given these labels:" : "It is given no label: none is probable enough.";
  if (set.length === labels.length) return "No label can be ruled out:";
  const coverage = `${+(100 * calibration.coverage).toFixed(1)}%`;
  if (reason === "outlier") return `The promised ${coverage} coverage does not hold for such an image; the set would be:`;
  return `With ${coverage} coverage, the right label is${set.length > 1 ? " one of" : ""}:`;
}

/** How unlike the training images it is, on a scale that ends well beyond what still counts as familiar. */
function familiarity(score, most) {
  const end = Math.max(1.5 * most, 1.1 * score);
  const scale = make("span", { class: "scale", "aria-hidden": "true" }, make("span", { class: "point" }));
  scale.style.setProperty("--score", score / end);
  scale.style.setProperty("--most", most / end);
  const remark = make("span", { class: "soft" }, `${score.toFixed(2)}; up to ${most.toFixed(2)} counts as familiar`);
  const look = score > most ? "familiarity beyond" : "familiarity";
  return make("div", { class: look }, make("p", {}, "Outlier score ", remark), scale);
}

function measured({ image, timing_ms: timing, request_id: request }, bytes, elapsed) {
  const stages = Object.entries(timing).map(([stage, ms]) => `${stage} ${ms.toFixed(1)}`);
  const kibibytes = Math.ceil(bytes / 1024).toLocaleString("en");
  const list = make("dl", { class: "measured" });
  showFacts(list, [
    ["Image", `${image.width} × ${image.height} ${image.format}, ${kibibytes} KiB`],
    ["Milliseconds", [...stages, `there and back ${elapsed.toFixed(0)}`].join(", ")],
    ["Request", request],
  ]);
  return list;
}
