// The panel of nearest training images.

import { $, isolated, make, pending, problemBox } from "./elements.js";
import { callApi, uploadOptions, withProblems } from "./service.js";

const N_NEIGHBORS = 5;

export function showNeighbors(image, signal) {
  $("similar").hidden = false;
  $("neighbors").replaceChildren();
  $("similar-state").replaceChildren(pending("Finding the nearest training images …"));
  const onProblem = (problem) => $("similar-state").replaceChildren(problemBox(problem, () => showNeighbors(image, signal)));
  return withProblems(async () => {
    const { neighbors } = await callApi(`v1/similar?k=${N_NEIGHBORS}&thumbnails=true`, uploadOptions(image, signal));
    signal.throwIfAborted();
    $("similar-state").replaceChildren();
    $("neighbors").classList.toggle("plain", !neighbors.some(({ thumbnail }) => thumbnail));
    $("neighbors").replaceChildren(...neighbors.map(neighborItem));
  }, onProblem);
}

function neighborItem({ path, labels, distance, thumbnail }) {
  const names = labels.join(", ") || "no label";
  const caption = make(
    "figcaption",
    {},
    make("span", { class: "label" }, isolated(names)),
    make("span", { class: "soft" }, `distance ${distance.toFixed(2)}`),
    make("span", { class: "path", title: path }, isolated(thumbnail ? path.split("/").at(-1) : path)),
  );
  if (!thumbnail) return make("li", {}, make("figure", {}, caption));
  const picture = make("img", { src: `data:image/jpeg;base64,${thumbnail}`, alt: `Training image: ${names}` });
  picture.addEventListener("load", () => picture.classList.toggle("tiny", picture.naturalWidth < 64));
  return make("li", {}, make("figure", {}, picture, caption));
}
