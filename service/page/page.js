// The demo page: describes the model and classifies images. It calls only the service that serves it.

import { showResult } from "./answer.js";
import { connectCodeTabs, showCode } from "./code.js";
import { $, announce, isolated, percent, problemBox, showChips, showDetails } from "./elements.js";
import { cancelExplanation, connectHeatmapControls, explainImage } from "./explanation.js";
import { connectImageInputs } from "./image-input.js";
import { showNeighbors } from "./neighbors.js";
import { callApi, connectKeyDialog, ProblemError, uploadOptions, withProblems } from "./service.js";

let model = null; // the response of v1/model
let limits = {}; // by name: {value, setting}
let controller = new AbortController(); // of all requests for the current image

async function loadModel() {
  const [modelResponse, limitsResponse] = await Promise.all([callApi("v1/model"), callApi("v1/limits")]);
  model = modelResponse;
  limits = Object.fromEntries(limitsResponse.limits.map(({ name, ...limit }) => [name, limit]));
  showModel(model);
  showLimits(limits, limitsResponse.formats);
}

function showModel(model) {
  const count = model.labels.length.toLocaleString("en");
  document.title = `${model.name} · Graft`;
  $("name").replaceChildren(isolated(model.name));
  $("locked").hidden = true;
  showDetails($("facts"), [
    [model.multilabel ? "Test exact-match accuracy" : "Test accuracy", ...accuracyText(model.scores.test)],
    ["Labels", count, model.multilabel ? "multi-label" : "single-label"],
    ["Backbone", model.backbone.name, `strategy: ${model.strategy}`],
    ["Version", model.version, `sha256 ${model.sha256.slice(0, 12)}…`],
    ["Device", model.device === "cpu" ? "CPU" : model.device],
  ]);
  showChips($("labels"), model.labels);
  $("known-title").hidden = false;
  $("known-title").textContent = model.multilabel ? "Labels (any number per image)" : "Labels (one per image)";
}

/** A score with its confidence interval; a model may have no test images. */
function accuracyText(score) {
  if (!score?.n) return ["not measured"];
  return [percent(score.accuracy), `${percent(score.low)} to ${percent(score.high)}, ${score.n.toLocaleString("en")} images`];
}

function showLimits({ max_body_bytes: bytes, max_pixels: pixels }, formats) {
  const list = new Intl.ListFormat("en", { type: "disjunction" });
  const size = +(bytes.value / 2 ** 20).toFixed(1), megapixels = +(pixels.value / 1e6).toFixed(1);
  $("limits").textContent = `${list.format(formats)}; at most ${size} MiB and ${megapixels} megapixels.`;
}

/** Shows a problem of the first requests. Without a key the page still works, and the user can enter one later. */
function showStartProblem(problem) {
  if (problem.status === 401) $("locked").hidden = false;
  else showProblem(problem, start);
}

function start() {
  $("problem").replaceChildren();
  $("known").hidden = false;
  return withProblems(loadModel, showStartProblem);
}

/** Shows and classifies an image, and aborts the requests for the previous one. */
async function classifyFile(file) {
  controller.abort();
  const { signal } = (controller = new AbortController());
  showImage(file);
  const onProblem = (problem) => { if (!signal.aborted) showProblem(problem, () => classifyFile(file)); };
  await withProblems(() => classify(file, signal), onProblem);
}

async function classify(file, signal) {
  const image = await readFile(file);
  const startTime = performance.now();
  const result = await callApi("v1/classify", uploadOptions(image, signal));
  const elapsed = performance.now() - startTime;
  if (model?.sha256 !== result.model.sha256) await loadModel(); // not loaded yet, or replaced since
  signal.throwIfAborted();
  $("waiting").hidden = true;
  announce(showResult(result, model, image.byteLength, elapsed));
  explainImage(image, result.predictions);
  showNeighbors(image, signal);
}

/** The file's content, read once so that all requests send the same bytes. Throws ProblemError. */
async function readFile(file) {
  const limit = limits.max_body_bytes;
  if (limit && file.size > limit.value) {
    const detail = `The file has ${file.size.toLocaleString("en")} bytes; it was not sent.`;
    throw new ProblemError({ title: "File too large", detail, status: 413, limit: { name: "max_body_bytes", ...limit } });
  }
  try {
    return await file.arrayBuffer();
  } catch {
    const detail = "The browser could not read the file. It may be a folder, or may have been moved.";
    throw new ProblemError({ title: "Unreadable file", detail, status: 422 });
  }
}

function showImage(file) {
  const picture = $("picture");
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(file);
  picture.alt = `Your image: ${file.name}`;
  $("stage").classList.add("filled");
  cancelExplanation();
  $("similar").hidden = $("known").hidden = true;
  $("verdict").textContent = "";
  $("problem").replaceChildren();
  $("result").replaceChildren();
  $("waiting").hidden = false;
  $("stage").scrollIntoView({ block: "nearest" }); // the page may be scrolled down when an image is dropped or pasted
  announce("");
}

/** Gives the frame the image's aspect ratio, so that the heat map fits it exactly. */
function fitFrame() {
  const { naturalWidth: width, naturalHeight: height } = $("picture");
  $("frame").hidden = !width;
  $("unshown").hidden = Boolean(width);
  if (!width) return;
  $("frame").style.setProperty("--ratio", width / height);
  $("frame").classList.toggle("tiny", Math.max(width, height) < 160);
}

/** Shows a problem in place of a result. */
function showProblem(problem, retry) {
  $("waiting").hidden = $("known").hidden = true;
  $("result").replaceChildren();
  $("problem").replaceChildren(problemBox(problem, retry));
}

/** Shows a problem and keeps the current result, because no request was sent. */
function showNotice(problem) {
  $("problem").replaceChildren(problemBox(problem));
}

connectImageInputs(classifyFile, showNotice);
connectHeatmapControls();
connectCodeTabs();
connectKeyDialog(showCode);
$("unlock").addEventListener("click", start);
$("picture").addEventListener("load", fitFrame);
$("picture").addEventListener("error", fitFrame);
showCode(false);
start();
