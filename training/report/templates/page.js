"use strict";
// Progressive enhancement: without it, links lead to the same images and tables have a default order.

// Shows the images of a confusion matrix cell in a dialog.
const cellImages = document.getElementById("cell-images");
if (cellImages && typeof HTMLDialogElement === "function") {
  const dialog = document.createElement("dialog");
  const close = document.createElement("button");
  close.type = "button";
  close.className = "close";
  close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { const shown = dialog.querySelector(".cell-images"); if (shown) cellImages.append(shown); });
  dialog.append(close);
  document.querySelector("main").append(dialog);
  document.querySelectorAll("a[href^='#cell-']").forEach((link) => link.addEventListener("click", (event) => {
    const images = document.getElementById(link.hash.slice(1));
    if (!images) return;
    event.preventDefault();
    dialog.append(images);
    dialog.setAttribute("aria-labelledby", images.getAttribute("aria-labelledby"));
    dialog.showModal();
  }));
}

// Enlarges a picture in a dialog. A modal dialog closes on Escape and gives the focus back by itself.
const pictures = document.querySelectorAll(".figures img, .heatmaps img, .stages img, .channels img, img.kernels");
if (pictures.length && typeof HTMLDialogElement === "function") {
  const dialog = document.createElement("dialog");
  const close = document.createElement("button");
  const large = document.createElement("img");
  const caption = document.createElement("p");
  dialog.className = "zoom";
  close.type = "button";
  close.className = "close";
  close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.append(close, large, caption);
  document.querySelector("main").append(dialog);
  pictures.forEach((picture) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.setAttribute("aria-label", `Enlarge ${picture.alt}`);
    button.addEventListener("click", () => {
      large.src = picture.src;
      large.alt = picture.alt;
      large.className = picture.className;
      caption.textContent = picture.alt;
      dialog.setAttribute("aria-label", picture.alt);
      dialog.showModal();
    });
    picture.replaceWith(button);
    button.append(picture);
  });
}

// A table that is wider than the window can be scrolled with the keyboard.
const scrollers = new ResizeObserver((entries) => entries.forEach(({ target }) => {
  const scrolls = target.scrollWidth > target.clientWidth;
  const attributes = { tabindex: "0", role: "group", "aria-label": "Table, scrolls sideways" };
  Object.entries(attributes).forEach(([name, value]) => (scrolls ? target.setAttribute(name, value) : target.removeAttribute(name)));
}));
document.querySelectorAll(".scroll").forEach((table) => scrollers.observe(table));

// A click on a column heading sorts its table: numbers in descending order, text alphabetically; a second click reverses.
const numeric = (cell) => cell.dataset.value !== undefined || /^[\d,.]+$/.test(cell.textContent.trim());
const number = (cell) => Number(cell.dataset.value ?? cell.textContent.replaceAll(",", ""));
function sort(table, heading, column) {
  const rows = [...table.tBodies[0].rows];
  const byNumber = rows.every((row) => numeric(row.cells[column]));
  const before = heading.getAttribute("aria-sort");
  const descending = before ? before === "ascending" : byNumber;
  table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const compare = byNumber
    ? (a, b) => number(a.cells[column]) - number(b.cells[column])
    : (a, b) => a.cells[column].textContent.localeCompare(b.cells[column].textContent);
  rows.sort((a, b) => (descending ? compare(b, a) : compare(a, b)));
  table.tBodies[0].append(...rows);
}
document.querySelectorAll("table.sortable").forEach((table) => {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    if (!heading.textContent.trim() || heading.classList.contains("wide")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sort(table, heading, column));
    heading.replaceChildren(button);
  });
});

// Previews the image of a point on the embedding map, selected with the pointer or the arrow keys, and highlights it on every map.
document.querySelectorAll(".embeddings").forEach((maps) => {
  const preview = maps.querySelector(".preview");
  const { columns, side } = maps.dataset;
  let picked = [];
  const show = (point) => {
    picked.forEach((other) => other.classList.remove("picked"));
    picked = point ? [...maps.querySelectorAll(`[data-tile="${point.dataset.tile}"]`)] : [];
    picked.forEach((other) => other.classList.add("picked"));
    preview.hidden = !point;
    if (!point) return;
    const row = Math.floor(point.dataset.tile / columns);
    const left = (point.dataset.tile - row * columns) * side;
    preview.querySelector("svg").setAttribute("viewBox", `${left} ${row * side} ${side} ${side}`);
    preview.querySelector("figcaption").textContent = point.querySelector("title").textContent;
    const at = point.getBoundingClientRect();
    const within = maps.getBoundingClientRect();
    const across = at.left - within.left + at.width + 12;
    preview.style.left = `${Math.max(0, Math.min(across, within.width - preview.offsetWidth))}px`;
    preview.style.top = `${at.bottom - within.top + 6}px`;
  };
  maps.querySelectorAll("svg.embedding").forEach((map) => {
    const points = [...map.querySelectorAll("[data-tile]")].sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left);
    map.addEventListener("pointerover", (event) => show(event.target.closest("[data-tile]")));
    map.addEventListener("pointerleave", () => show(null));
    map.addEventListener("blur", () => show(null));
    map.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const here = points.findIndex((point) => point.classList.contains("picked"));
      show(points[(here < 0 ? 0 : here + step + points.length) % points.length]);
    });
  });
});
