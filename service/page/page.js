// The try-it page: what is served, and one image's way through it. It asks only the service it came from.

import { showAnswer } from "./answer.js";
import { listenToCode, showCode } from "./code.js";
import { $, percent, problemBox, say, showChips, showFacts } from "./elements.js";
import { explainImage, listenToHeat, stopExplaining } from "./explanation.js";
import { listenForImages } from "./intake.js";
import { showNeighbours } from "./neighbours.js";
import { ask, attempt, listenToKey, Refusal, upload } from "./service.js";

let model = null; // what v1/model said
let limits = {}; // by name: {value, setting}
let round = new AbortController(); // of everything that is asked about the present image

async function describe() {
  const [described, known] = await Promise.all([ask("v1/model"), ask("v1/limits")]);
  model = described;
  limits = Object.fromEntries(known.limits.map(({ name, ...limit }) => [name, limit]));
  showModel(model);
  showLimits(limits);
}

function showModel(model) {
  const count = model.labels.length.toLocaleString("en");
  document.title = `${model.name} · Graft`;
  $("name").textContent = model.name;
  $("locked").hidden = true;
  showFacts($("facts"), [
    [model.multilabel ? "Exactly right on test" : "Test accuracy", ...measured(model.scores.test)],
    ["Labels", count, model.multilabel ? "any number to an image" : "one to an image"],
    ["Backbone", model.backbone.name, `strategy: ${model.strategy}`],
    ["Version", model.version, `sha256 ${model.sha256.slice(0, 12)}…`],
    ["Runs on", model.device === "cpu" ? "CPU" : model.device],
  ]);
  showChips($("labels"), model.labels);
  $("known-title").hidden = false;
  $("known-title").textContent = model.multilabel ? "Any of these may be in it" : "It will be one of these";
}

/** A score and how sure it is; a model may have been given no test images. */
function measured(score) {
  if (!score?.n) return ["not measured"];
  return [percent(score.accuracy), `${percent(score.low)} to ${percent(score.high)}, ${score.n.toLocaleString("en")} images`];
}

function showLimits({ max_body_bytes: bytes, max_pixels: pixels }) {
  const size = +(bytes.value / 2 ** 20).toFixed(1), megapixels = +(pixels.value / 1e6).toFixed(1);
  $("limits").textContent = `JPEG, PNG, WebP, GIF or BMP; at most ${size} MiB and ${megapixels} megapixels.`;
}

/** A problem of the very start: without a key there is still a page, which can be given one later. */
function showUndescribed(problem) {
  if (problem.status === 401) $("locked").hidden = false;
  else showProblem(problem, start);
}

function start() {
  $("problem").replaceChildren();
  $("known").hidden = false;
  return attempt(describe, showUndescribed);
}

/** One image through everything; what is still being asked about the one before is given up. */
async function take(file) {
  round.abort();
  const { signal } = (round = new AbortController());
  showImage(file);
  const refused = (problem) => { if (!signal.aborted) showProblem(problem, () => take(file)); };
  await attempt(() => classify(file, signal), refused);
}

async function classify(file, signal) {
  const image = await bytesOf(file);
  const begun = performance.now();
  const answer = await ask("v1/classify", upload(image, signal));
  const elapsed = performance.now() - begun;
  if (model?.sha256 !== answer.model.sha256) await describe(); // not known yet, or another one since
  signal.throwIfAborted();
  $("waiting").hidden = true;
  say(showAnswer(answer, model, image.byteLength, elapsed));
  explainImage(image, answer.predictions);
  showNeighbours(image, signal);
}

/** The file's content, read once so that every question is about the same bytes. Throws Refusal. */
async function bytesOf(file) {
  const limit = limits.max_body_bytes;
  if (limit && file.size > limit.value) {
    const detail = `The file has ${file.size.toLocaleString("en")} bytes; it was not sent.`;
    throw new Refusal({ title: "The file is too large", detail, status: 413, limit: { name: "max_body_bytes", ...limit } });
  }
  try {
    return await file.arrayBuffer();
  } catch {
    const detail = "The browser could not read it. Is it a folder, or was it moved meanwhile?";
    throw new Refusal({ title: "The file cannot be read", detail, status: 422 });
  }
}

function showImage(file) {
  const picture = $("picture");
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(file);
  picture.alt = `Your image: ${file.name}`;
  $("stage").classList.add("filled");
  stopExplaining();
  $("similar").hidden = $("known").hidden = true;
  $("verdict").textContent = "";
  $("problem").replaceChildren();
  $("result").replaceChildren();
  $("waiting").hidden = false;
  $("stage").scrollIntoView({ block: "nearest" }); // what is dropped or pasted may come while somebody reads further down
  say("");
}

/** The frame takes the picture's own proportions, so that the heat map fits it exactly. */
function showPicture() {
  const { naturalWidth: width, naturalHeight: height } = $("picture");
  $("frame").hidden = !width;
  $("unshown").hidden = Boolean(width);
  if (!width) return;
  $("frame").style.setProperty("--ratio", width / height);
  $("frame").classList.toggle("tiny", Math.max(width, height) < 160);
}

/** A problem in place of an answer. */
function showProblem(problem, again) {
  $("waiting").hidden = $("known").hidden = true;
  $("result").replaceChildren();
  $("problem").replaceChildren(problemBox(problem, again));
}

/** A problem beside whatever is shown: nothing was asked. */
function showNotice(problem) {
  $("problem").replaceChildren(problemBox(problem));
}

listenForImages(take, showNotice);
listenToHeat();
listenToCode();
listenToKey(showCode);
$("unlock").addEventListener("click", start);
$("picture").addEventListener("load", showPicture);
$("picture").addEventListener("error", showPicture);
showCode(false);
start();
