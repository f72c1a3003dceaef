"use strict";
document.documentElement.classList.add("script");

// Tables whose head has buttons are sorted by the cell's data-value, undefined ones last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const table = head.closest("table");
    const column = head.cellIndex;
    const isText = head.dataset.kind === "text";
    const descending = head.ariaSort ? head.ariaSort === "ascending" : !isText;
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const key = (row) => {
      const value = row.cells[column].dataset.value;
      return isText ? value : value === "" ? NaN : Number(value);
    };
    const compare = (a, b) => {
      if (isText) return a.localeCompare(b) * (descending ? -1 : 1);
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return descending ? b - a : a - b;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  });
}

// Score thresholds: precision, recall and F1 of a class at the slider's place.
const explorer = JSON.parse(document.getElementById("explorer-data").textContent);
const classSelect = document.getElementById("explorer-class");
const slider = document.getElementById("explorer-threshold");
const chart = document.getElementById("explorer-chart");
const plot = { left: 44, right: 310, top: 10, bottom: 166 };

function rates(counts, index) {
  const found = counts.found[index], wrong = counts.wrong[index], objects = counts.objects;
  return {
    precision: found + wrong ? found / (found + wrong) : NaN,
    recall: objects ? found / objects : NaN,
    f1: objects ? (2 * found) / (found + wrong + objects) : NaN,
  };
}

function across(index) {
  return plot.left + (index / 100) * (plot.right - plot.left);
}

function showClass() {
  const counts = explorer[classSelect.value];
  for (const name of ["precision", "recall", "f1"]) {
    const points = counts.found
      .map((_, index) => [index, rates(counts, index)[name]])
      .filter(([, value]) => !Number.isNaN(value))
      .map(([index, value]) => `${across(index).toFixed(1)},${(plot.bottom - value * (plot.bottom - plot.top)).toFixed(1)}`);
    chart.querySelector(`[data-rate="${name}"]`).setAttribute("points", points.join(" "));
  }
  showThreshold();
}

function showThreshold() {
  const index = Math.round(slider.value * 100);
  const counts = explorer[classSelect.value];
  const text = (value) => (Number.isNaN(value) ? "–" : value.toFixed(3));
  for (const [name, value] of Object.entries(rates(counts, index))) {
    document.getElementById(`explorer-${name}`).textContent = text(value);
  }
  document.getElementById("explorer-found").textContent = counts.found[index];
  document.getElementById("explorer-wrong").textContent = counts.wrong[index];
  document.getElementById("explorer-missed").textContent = counts.objects - counts.found[index];
  document.getElementById("explorer-value").textContent = Number(slider.value).toFixed(2);
  const mark = chart.querySelector(".mark");
  mark.setAttribute("x1", across(index));
  mark.setAttribute("x2", across(index));
}

classSelect.addEventListener("change", showClass);
slider.addEventListener("input", showThreshold);
showClass();

// Pictures open in a dialog; arrow keys go through their row, Escape closes it.
const dialog = document.getElementById("picture");
let opened = null;

function enlarge(button) {
  opened = button;
  dialog.querySelector(".place").replaceChildren(button.querySelector("svg").cloneNode(true));
  dialog.querySelector("p").textContent = button.parentElement.querySelector("figcaption").textContent;
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const buttons = [...opened.closest(".gallery").querySelectorAll("button")];
  enlarge(buttons[(buttons.indexOf(opened) + by + buttons.length) % buttons.length]);
}

for (const button of document.querySelectorAll(".gallery button")) {
  button.addEventListener("click", () => enlarge(button));
}
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") step(1);
  if (event.key === "ArrowLeft") step(-1);
});
dialog.querySelector(".before").addEventListener("click", () => step(-1));
dialog.querySelector(".after").addEventListener("click", () => step(1));
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => opened.focus());
