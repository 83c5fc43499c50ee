// Elements and words. Whatever the service says becomes text here, never markup.

const MOST_CHIPS = 16;

export const $ = (id) => document.getElementById(id);

/** An element; strings among the children become text, so that no label can be markup. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function percent(share) {
  if (share > 0 && share < 0.001) return "<0.1%";
  if (share < 1 && share > 0.999) return ">99.9%";
  return `${(100 * share).toFixed(1)}%`;
}

export function say(sentence) {
  $("said").textContent = sentence;
}

/** Labels as chips; those that are too many wait behind a button. */
export function showChips(list, names) {
  const chips = (some) => some.map((name) => make("li", {}, name));
  list.replaceChildren(...chips(names.slice(0, MOST_CHIPS)));
  const rest = names.slice(MOST_CHIPS);
  if (!rest.length) return;
  const button = make("button", { type: "button", class: "quiet" }, `and ${rest.length.toLocaleString("en")} more`);
  const item = make("li", { class: "more" }, button);
  button.addEventListener("click", () => {
    const added = chips(rest);
    item.replaceWith(...added);
    added[0].tabIndex = -1; // the button that had the focus is gone
    added[0].focus();
  });
  list.append(item);
}

/** Terms with what is said of them, and perhaps a remark. */
export function showFacts(list, facts) {
  const entry = ([term, value, remark]) =>
    make("div", {}, make("dt", {}, term), make("dd", {}, value), ...(remark ? [make("dd", { class: "soft" }, remark)] : []));
  list.replaceChildren(...facts.map(entry));
}

/** A problem in words, with the limit that was hit, and a way to try again where that may help. */
export function problemBox(problem, again) {
  const { title, detail = "", limit, request_id: request, status } = problem;
  const box = make("div", { class: "problem" });
  box.append(make("p", { class: "title" }, title), make("p", {}, String(detail)));
  if (limit?.setting) {
    const value = Number(limit.value).toLocaleString("en");
    const text = `Limit: ${limit.name} = ${value}. Who runs the service sets it with ${limit.setting}.`;
    box.append(make("p", { class: "soft" }, text));
  }
  if (request) box.append(make("p", { class: "soft" }, "Request ", make("code", {}, request)));
  if (again && (!status || status >= 500 || status === 408 || status === 401)) {
    const button = make("button", { type: "button" }, "Try again");
    button.addEventListener("click", again);
    box.append(button);
  }
  return box;
}

export function pending(text) {
  return make("p", { class: "soft pending" }, text);
}
