// The ways in: an image that is picked, dropped, pasted or taken by the camera.

import { $ } from "./elements.js";

/** Connects them all; `take` gets a file, `refuse` the problem if what came is none. */
export function listenForImages(take, refuse) {
  listenForPicks(take);
  listenForDrops(take, refuse);
  listenForPastes(take, refuse);
  listenToCamera(take, refuse);
}

function listenForPicks(take) {
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", ({ target }) => {
    if (target.files.length) take(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  });
}

function listenForDrops(take, refuse) {
  const show = (over) => document.body.classList.toggle("dragging", over && !isBusy());
  addEventListener("dragover", (event) => {
    event.preventDefault();
    show(true);
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) show(false); });
  addEventListener("drop", (event) => {
    event.preventDefault(); // or the browser would open the file in place of this page
    show(false);
    const file = imageAmong(event.dataTransfer.files);
    if (isBusy()) return;
    if (file) take(file);
    else refuse(none("What was dropped is not a file. Addresses are not fetched: save the image and drop that."));
  });
}

function listenForPastes(take, refuse) {
  addEventListener("paste", (event) => {
    if (isBusy()) return;
    const file = imageAmong(event.clipboardData.files);
    if (file) take(file);
    else refuse(none("The clipboard holds none. Copy an image, not its address, and paste again."));
  });
}

/** The first image of several files; without any, the first file: it may be one under another name. */
function imageAmong(files) {
  return [...files].find(({ type }) => type.startsWith("image/")) ?? files[0];
}

function none(detail) {
  return { title: "There is no image", detail, status: 422 };
}

/** While a dialog wants an answer, nothing is dropped or pasted behind it. */
function isBusy() {
  return document.querySelector("dialog[open]") !== null;
}

function listenToCamera(take, refuse) {
  $("camera").hidden = !navigator.mediaDevices?.getUserMedia; // absent where the page came unencrypted from afar
  $("camera").addEventListener("click", () => openCamera(refuse));
  $("shoot").addEventListener("click", () => shoot(take));
  $("camera-cancel").addEventListener("click", () => $("camera-dialog").close());
  $("camera-dialog").addEventListener("close", stopCamera);
}

async function openCamera(refuse) {
  const wanted = { video: { facingMode: "environment", width: { ideal: 1280 } } };
  try {
    $("video").srcObject = await navigator.mediaDevices.getUserMedia(wanted);
  } catch (error) {
    refuse({ title: "The camera cannot be used", detail: `The browser says: ${error.message || error.name}.`, status: 422 });
    return;
  }
  $("camera-dialog").showModal();
}

function shoot(take) {
  const { videoWidth: width, videoHeight: height } = $("video");
  if (!width) return; // nothing was seen yet
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  $("camera-dialog").close();
  canvas.toBlob((blob) => take(new File([blob], "camera.jpg", { type: blob.type })), "image/jpeg", 0.92);
}

function stopCamera() {
  $("video").srcObject?.getTracks().forEach((track) => track.stop());
  $("video").srcObject = null;
}
