// Asking the service: its answers, what it refuses, and the key it may want.

import { $, say } from "./elements.js";

let key = ""; // only here: neither stored nor shown, so it is gone with the page
let keyDialog = null; // several requests may be refused at once; one dialog serves them all
let declined = 0; // how often the dialog was closed without a key

/** What the service, or the way to it, has against a request: a problem as RFC 9457 has it. */
export class Refusal extends Error {
  constructor(problem) {
    super(problem.title);
    this.problem = problem;
  }
}

/** What a route answers, once there is a key if it needs one. Throws Refusal; AbortError if `init.signal` was aborted. */
export async function ask(route, init = {}) {
  const used = key, before = declined;
  const headers = { Accept: "application/json", ...(used && { Authorization: `Bearer ${used}` }), ...init.headers };
  const response = await reached(fetch(route, { ...init, headers }));
  const answer = await parsed(response);
  if (response.ok) return answer;
  const refusal = new Refusal({ title: `The service answered ${response.status}`, ...answer, status: response.status });
  if (response.status !== 401) throw refusal;
  await anotherKey(used, before, refusal);
  return ask(route, init);
}

async function reached(request) {
  try {
    return await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const detail = "No answer came back. Is the service running, and is this machine connected to it?";
    throw new Refusal({ title: "The service cannot be reached", detail });
  }
}

async function parsed(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const detail = `Status ${response.status} came without JSON, so something on the way may have answered instead.`;
    throw new Refusal({ title: "The answer cannot be read", detail, status: response.status });
  }
}

/** Runs it; a refusal goes to `show`, and that a newer image took its place is nobody's concern. */
export async function attempt(work, show) {
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Refusal)) throw error;
    show(error.problem);
  }
}

/** An image as a request. Its kind is left to the service, which looks at the bytes; a file's name may lie. */
export function upload(image, signal) {
  return { method: "POST", body: image, headers: { "Content-Type": "application/octet-stream" }, signal };
}

/** Ends when there is another key than the refused one; throws the refusal if none is given. */
async function anotherKey(refused, before, refusal) {
  if (key !== refused) return;
  if (declined !== before) throw refusal; // who closed the dialog meanwhile is not asked again on this one's account
  keyDialog ??= keyFromDialog(refused).finally(() => { keyDialog = null; });
  if (!(await keyDialog)) throw refusal;
}

function keyFromDialog(refused) {
  const dialog = $("key-dialog");
  $("key-refused").hidden = !refused;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "given"), { once: true });
  });
}

/** Connects the key's dialog and buttons; `changed` is told whether there is a key now. */
export function listenToKey(changed) {
  const use = (given) => {
    key = given;
    $("forget").hidden = !given;
    changed(given !== "");
  };
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    use($("key").value);
    $("key-dialog").close("given");
  });
  $("key-dialog").addEventListener("close", () => {
    $("key").value = "";
    if ($("key-dialog").returnValue === "given") return;
    declined += 1;
    use(""); // it was opened because the one before, if any, is no good
  });
  $("key-cancel").addEventListener("click", () => $("key-dialog").close());
  $("forget").addEventListener("click", () => {
    use("");
    say("The key is forgotten.");
  });
}
