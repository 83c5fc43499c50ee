// Calls the API: requests, problems, and the API key.

import { $, announce } from "./elements.js";

let key = ""; // only in memory: neither stored nor shown
let keyPrompt = null; // one dialog for all requests that fail for lack of a key
let nDismissed = 0; // how often the dialog was closed without a key

/** A failed request, with its problem as in RFC 9457. */
export class ProblemError extends Error {
  constructor(problem) {
    super(problem.title);
    this.problem = problem;
  }
}

/** The JSON response of a route; prompts for a key on 401. Throws ProblemError; AbortError if `init.signal` was aborted. */
export async function callApi(route, init = {}) {
  const usedKey = key, nDismissedBefore = nDismissed;
  const headers = { Accept: "application/json", ...(usedKey && { Authorization: `Bearer ${usedKey}` }), ...init.headers };
  const response = await withNetworkErrors(fetch(route, { ...init, headers }));
  const body = await parseJson(response);
  if (response.ok) return body;
  const error = new ProblemError({ title: `HTTP status ${response.status}`, ...body, status: response.status });
  if (response.status !== 401) throw error;
  await waitForNewKey(usedKey, nDismissedBefore, error);
  return callApi(route, init);
}

async function withNetworkErrors(request) {
  try {
    return await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const detail = "There was no response. Check that the service is running and that this machine can reach it.";
    throw new ProblemError({ title: "Service unreachable", detail });
  }
}

async function parseJson(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const detail = `The response with status ${response.status} is not JSON. It may come from a proxy.`;
    throw new ProblemError({ title: "Invalid response", detail, status: response.status });
  }
}

/** Runs `work`; passes a problem to `onProblem`, and ignores requests that a newer image has aborted. */
export async function withProblems(work, onProblem) {
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ProblemError)) throw error;
    onProblem(error.problem);
  }
}

/** The fetch options to upload an image. The service detects the format from the bytes, since a file name may be wrong. */
export function uploadOptions(image, signal) {
  return { method: "POST", body: image, headers: { "Content-Type": "application/octet-stream" }, signal };
}

/** Resolves once the key differs from the rejected one; throws `error` if the user enters none. */
async function waitForNewKey(rejectedKey, nDismissedBefore, error) {
  if (key !== rejectedKey) return;
  if (nDismissed !== nDismissedBefore) throw error; // the user dismissed the dialog during this request: do not open it again
  keyPrompt ??= promptForKey(rejectedKey).finally(() => { keyPrompt = null; });
  if (!(await keyPrompt)) throw error;
}

function promptForKey(rejectedKey) {
  const dialog = $("key-dialog");
  $("key-refused").hidden = !rejectedKey;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "submitted"), { once: true });
  });
}

/** Connects the key dialog and its buttons; `onChange` gets whether a key is set. */
export function connectKeyDialog(onChange) {
  const setKey = (value) => {
    key = value;
    $("forget").hidden = !value;
    onChange(value !== "");
  };
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setKey($("key").value);
    $("key-dialog").close("submitted");
  });
  $("key-dialog").addEventListener("close", () => {
    $("key").value = "";
    if ($("key-dialog").returnValue === "submitted") return;
    nDismissed += 1;
    setKey(""); // the dialog opens only if the previous key, if any, was rejected
  });
  $("key-cancel").addEventListener("click", () => $("key-dialog").close());
  $("forget").addEventListener("click", () => {
    setKey("");
    announce("API key removed.");
  });
}
