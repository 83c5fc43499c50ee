// DOM helpers. Data from the service is always inserted as text, never as HTML.

const MAX_CHIPS = 16;

export const $ = (id) => document.getElementById(id);

/** Creates an element; string children become text nodes, so that a label cannot inject HTML. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A label or path from the service. Its writing direction, such as that of Arabic, does not change the text around it. */
export function isolated(text) {
  return make("bdi", {}, text);
}

export function percent(share) {
  if (share > 0 && share < 0.001) return "<0.1%";
  if (share < 1 && share > 0.999) return ">99.9%";
  return `${(100 * share).toFixed(1)}%`;
}

/** Announces a message to screen readers. */
export function announce(message) {
  $("status").textContent = message;
}

/** Shows labels as chips; a button reveals those beyond MAX_CHIPS. */
export function showChips(list, names) {
  const chips = (labels) => labels.map((name) => make("li", {}, isolated(name)));
  list.replaceChildren(...chips(names.slice(0, MAX_CHIPS)));
  const rest = names.slice(MAX_CHIPS);
  if (!rest.length) return;
  const button = make("button", { type: "button", class: "quiet" }, `and ${rest.length.toLocaleString("en")} more`);
  const item = make("li", { class: "more" }, button);
  button.addEventListener("click", () => {
    const added = chips(rest);
    item.replaceWith(...added);
    added[0].tabIndex = -1; // the button had the focus and was removed
    added[0].focus();
  });
  list.append(item);
}

/** Shows a description list; each entry is a term, a value, and an optional note. */
export function showDetails(list, details) {
  const entry = ([term, value, note]) =>
    make("div", {}, make("dt", {}, term), make("dd", {}, value), ...(note ? [make("dd", { class: "soft" }, note)] : []));
  list.replaceChildren(...details.map(entry));
}

/** A problem with the limit that was hit, and a retry button if a retry can help. */
export function problemBox(problem, retry) {
  const { title, detail = "", limit, request_id: request, status } = problem;
  const box = make("div", { class: "problem" });
  box.append(make("p", { class: "title" }, title), make("p", {}, String(detail)));
  if (limit?.setting) {
    const value = Number(limit.value).toLocaleString("en");
    const text = `Limit: ${limit.name} = ${value}. The operator can change it with ${limit.setting}.`;
    box.append(make("p", { class: "soft" }, text));
  }
  if (request) box.append(make("p", { class: "soft" }, "Request ", make("code", {}, request)));
  if (retry && (!status || status >= 500 || status === 408 || status === 401)) {
    const button = make("button", { type: "button" }, "Try again");
    button.addEventListener("click", retry);
    box.append(button);
  }
  return box;
}

export function pending(text) {
  return make("p", { class: "soft pending" }, text);
}
