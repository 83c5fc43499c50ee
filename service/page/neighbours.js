// The panel of nearest training images.

import { $, make, pending, problemBox } from "./elements.js";
import { callApi, uploadOptions, withProblems } from "./service.js";

const N_NEIGHBORS = 5;

export function showNeighbours(image, signal) {
  $("similar").hidden = false;
  $("neighbours").replaceChildren();
  $("similar-state").replaceChildren(pending("Finding the nearest training images …"));
  const onProblem = (problem) => $("similar-state").replaceChildren(problemBox(problem, () => showNeighbours(image, signal)));
  return withProblems(async () => {
    const { neighbours } = await callApi(`v1/similar?k=${N_NEIGHBORS}&thumbnails=true`, uploadOptions(image, signal));
    signal.throwIfAborted();
    $("similar-state").replaceChildren();
    $("neighbours").classList.toggle("plain", !neighbours.some(({ thumbnail }) => thumbnail));
    $("neighbours").replaceChildren(...neighbours.map(neighborItem));
  }, onProblem);
}

function neighborItem({ path, labels, distance, thumbnail }) {
  const names = labels.join(", ") || "no label";
  const caption = make(
    "figcaption",
    {},
    make("span", { class: "label" }, names),
    make("span", { class: "soft" }, `distance ${distance.toFixed(2)}`),
    make("span", { class: "path", title: path }, thumbnail ? path.split("/").at(-1) : path),
  );
  if (!thumbnail) return make("li", {}, make("figure", {}, caption));
  const picture = make("img", { src: `data:image/jpeg;base64,${thumbnail}`, alt: `Training image: ${names}` });
  picture.addEventListener("load", () => picture.classList.toggle("tiny", picture.naturalWidth < 64));
  return make("li", {}, make("figure", {}, picture, caption));
}
