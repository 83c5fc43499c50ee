// The same question from a program: code to copy, in tabs as the ARIA practices want them.

import { $, say } from "./elements.js";

// With a key the code reads it from GRAFT_API_KEY: what is copied ends up in chats and repositories.
const CODE = {
  curl: (url, locked) => `curl -X POST -T photo.jpg${locked ? ' -H "Authorization: Bearer $GRAFT_API_KEY"' : ""} '${url}'`,
  python: (url, locked) => `${locked ? "import os\n" : ""}from pathlib import Path

import requests

answer = requests.post(
    ${JSON.stringify(url)},
    data=Path("photo.jpg").read_bytes(),
${locked ? '    headers={"Authorization": f"Bearer {os.environ[\'GRAFT_API_KEY\']}"},\n' : ""}    timeout=30,
)
answer.raise_for_status()
print(answer.json()["predictions"])`,
  javascript: (url, locked) => `// node ask.mjs
import { readFile } from "node:fs/promises";

const response = await fetch(${JSON.stringify(url)}, {
  method: "POST",
${locked ? "  headers: { Authorization: `Bearer ${process.env.GRAFT_API_KEY}` },\n" : ""}  body: await readFile("photo.jpg"),
});
if (!response.ok) throw new Error(await response.text());
console.log((await response.json()).predictions);`,
};

/** Writes the code for this very service; `locked` says whether it wants a key. */
export function showCode(locked) {
  const url = new URL("v1/classify", document.baseURI).href;
  for (const [language, write] of Object.entries(CODE)) {
    $(`code-${language}`).querySelector("code").textContent = write(url, locked);
  }
}

function choose(tab) {
  for (const other of $("tabs").children) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
}

function moveBetweenTabs(event) {
  const tabs = [...$("tabs").children], now = tabs.indexOf(event.target), last = tabs.length - 1;
  const next = { ArrowRight: now === last ? 0 : now + 1, ArrowLeft: now === 0 ? last : now - 1, Home: 0, End: last }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  choose(tabs[next]);
  tabs[next].focus();
}

async function copy() {
  const code = document.querySelector("[role=tabpanel]:not([hidden]) code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    $("copy").textContent = "Copied";
  } catch { // no permission, or a page that came unencrypted from afar
    getSelection().selectAllChildren(code);
    $("copy").textContent = "Selected: press Ctrl+C";
  }
  say($("copy").textContent);
  setTimeout(() => { $("copy").textContent = "Copy"; }, 2500);
}

export function listenToCode() {
  $("tabs").addEventListener("click", ({ target }) => { if (target.matches("[role=tab]")) choose(target); });
  $("tabs").addEventListener("keydown", moveBetweenTabs);
  $("copy").addEventListener("click", copy);
}
