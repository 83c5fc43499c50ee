// The code samples: the same request from a program, in tabs that follow the ARIA Authoring Practices.

import { $, announce } from "./elements.js";

// The code reads the key from GRAFT_API_KEY, because copied code ends up in chats and repositories.
const CODE = {
  curl: (url, needsKey) => `curl -X POST -T photo.jpg${needsKey ? ' -H "Authorization: Bearer $GRAFT_API_KEY"' : ""} '${url}'`,
  python: (url, needsKey) => `${needsKey ? "import os\n" : ""}from pathlib import Path

import requests

response = requests.post(
    ${JSON.stringify(url)},
    data=Path("photo.jpg").read_bytes(),
${needsKey ? '    headers={"Authorization": f"Bearer {os.environ[\'GRAFT_API_KEY\']}"},\n' : ""}    timeout=30,
)
response.raise_for_status()
print(response.json()["predictions"])`,
  javascript: (url, needsKey) => `// node classify.mjs
import { readFile } from "node:fs/promises";

const response = await fetch(${JSON.stringify(url)}, {
  method: "POST",
${needsKey ? "  headers: { Authorization: `Bearer ${process.env.GRAFT_API_KEY}` },\n" : ""}  body: await readFile("photo.jpg"),
});
if (!response.ok) throw new Error(await response.text());
console.log((await response.json()).predictions);`,
};

/** Fills in the code for this service; `needsKey` is whether it requires a key. */
export function showCode(needsKey) {
  const url = new URL("v1/classify", document.baseURI).href;
  for (const [language, render] of Object.entries(CODE)) {
    $(`code-${language}`).querySelector("code").textContent = render(url, needsKey);
  }
}

function selectTab(tab) {
  for (const other of $("tabs").children) {
    const selected = other === tab;
    other.setAttribute("aria-selected", String(selected));
    other.tabIndex = selected ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !selected;
  }
}

function moveBetweenTabs(event) {
  const tabs = [...$("tabs").children], now = tabs.indexOf(event.target), last = tabs.length - 1;
  const next = { ArrowRight: now === last ? 0 : now + 1, ArrowLeft: now === 0 ? last : now - 1, Home: 0, End: last }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  selectTab(tabs[next]);
  tabs[next].focus();
}

async function copy() {
  const code = document.querySelector("[role=tabpanel]:not([hidden]) code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    $("copy").textContent = "Copied";
  } catch { // no permission, or not a secure context (HTTPS or localhost)
    getSelection().selectAllChildren(code);
    $("copy").textContent = "Selected: press Ctrl+C";
  }
  announce($("copy").textContent);
  setTimeout(() => { $("copy").textContent = "Copy"; }, 2500);
}

export function connectCodeTabs() {
  $("tabs").addEventListener("click", ({ target }) => { if (target.matches("[role=tab]")) selectTab(target); });
  $("tabs").addEventListener("keydown", moveBetweenTabs);
  $("copy").addEventListener("click", copy);
}
