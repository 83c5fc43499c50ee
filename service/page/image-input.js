// The image inputs: file picker, drag and drop, clipboard, and camera.

import { $ } from "./elements.js";

/** Connects all inputs; `onFile` gets a file, `onProblem` the problem if there is no image. */
export function connectImageInputs(onFile, onProblem) {
  connectFilePicker(onFile);
  connectDrop(onFile, onProblem);
  connectPaste(onFile, onProblem);
  connectCamera(onFile, onProblem);
}

function connectFilePicker(onFile) {
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", ({ target }) => {
    if (target.files.length) onFile(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  });
}

function connectDrop(onFile, onProblem) {
  const highlight = (dragging) => document.body.classList.toggle("dragging", dragging && !isDialogOpen());
  addEventListener("dragover", (event) => {
    event.preventDefault();
    highlight(true);
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) highlight(false); });
  addEventListener("drop", (event) => {
    event.preventDefault(); // otherwise the browser would leave this page and open the file
    highlight(false);
    const file = firstImage(event.dataTransfer.files);
    if (isDialogOpen()) return;
    if (file) onFile(file);
    else onProblem(missingImage("The dropped item is not a file. URLs are not fetched: save the image and drop the file."));
  });
}

function connectPaste(onFile, onProblem) {
  addEventListener("paste", (event) => {
    if (isDialogOpen()) return;
    const file = firstImage(event.clipboardData.files);
    if (file) onFile(file);
    else onProblem(missingImage("The clipboard contains no image. Copy an image, not its URL, and paste again."));
  });
}

/** The first image file; if there is none, the first file, which may be an image with a wrong extension. */
function firstImage(files) {
  return [...files].find(({ type }) => type.startsWith("image/")) ?? files[0];
}

function missingImage(detail) {
  return { title: "Missing image", detail, status: 422 };
}

/** Drops and pastes are ignored while a dialog is open. */
function isDialogOpen() {
  return document.querySelector("dialog[open]") !== null;
}

function connectCamera(onFile, onProblem) {
  $("camera").hidden = !navigator.mediaDevices?.getUserMedia; // undefined outside a secure context (HTTPS or localhost)
  $("camera").addEventListener("click", () => openCamera(onProblem));
  $("shoot").addEventListener("click", () => takePhoto(onFile));
  $("camera-cancel").addEventListener("click", () => $("camera-dialog").close());
  $("camera-dialog").addEventListener("close", stopCamera);
}

async function openCamera(onProblem) {
  const constraints = { video: { facingMode: "environment", width: { ideal: 1280 } } };
  try {
    $("video").srcObject = await navigator.mediaDevices.getUserMedia(constraints);
  } catch (error) {
    onProblem({ title: "Camera not available", detail: `The browser reports: ${error.message || error.name}.`, status: 422 });
    return;
  }
  $("camera-dialog").showModal();
}

function takePhoto(onFile) {
  const { videoWidth: width, videoHeight: height } = $("video");
  if (!width) return; // no frame has arrived yet
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  $("camera-dialog").close();
  canvas.toBlob((blob) => onFile(new File([blob], "camera.jpg", { type: blob.type })), "image/jpeg", 0.92);
}

function stopCamera() {
  $("video").srcObject?.getTracks().forEach((track) => track.stop());
  $("video").srcObject = null;
}
