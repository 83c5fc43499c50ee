// The training images that look most like an image to the model.

import { $, make, pending, problemBox } from "./elements.js";
import { ask, attempt, upload } from "./service.js";

const NEAREST = 5;

export function showNeighbours(image, signal) {
  $("similar").hidden = false;
  $("neighbours").replaceChildren();
  $("similar-state").replaceChildren(pending("Comparing with the training images …"));
  const refused = (problem) => $("similar-state").replaceChildren(problemBox(problem, () => showNeighbours(image, signal)));
  return attempt(async () => {
    const { neighbours } = await ask(`v1/similar?k=${NEAREST}&thumbnails=true`, upload(image, signal));
    signal.throwIfAborted();
    $("similar-state").replaceChildren();
    $("neighbours").classList.toggle("plain", !neighbours.some(({ thumbnail }) => thumbnail));
    $("neighbours").replaceChildren(...neighbours.map(neighbour));
  }, refused);
}

function neighbour({ path, labels, distance, thumbnail }) {
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
