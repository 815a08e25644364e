"use strict";
const find = selector => [...document.querySelectorAll(selector)];
find(".controls").forEach(box => { box.hidden = false; });

const rows = document.querySelector("#rows tbody"), heads = find("#rows thead th");
heads.forEach((head, i) => head.firstElementChild.addEventListener("click", () => {
  const up = head.getAttribute("aria-sort") !== "ascending", numbers = head.dataset.kind === "number";
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[i].dataset.v;
  rows.append(...[...rows.rows].sort((a, b) => {
    const x = key(a), y = key(b);
    if (!x || !y) return !x - !y; // rows without a value stay last
    return (up ? 1 : -1) * (numbers ? x - y : x.localeCompare(y));
  }));
}));

const filter = document.getElementById("filter"), status = document.getElementById("status");
const applyFilter = () => {
  const words = filter.value.toLowerCase().split(/\s+/);
  for (const row of rows.rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word)) || Boolean(status?.value && status.value !== row.dataset.status);
  }
  const shown = [...rows.rows].filter(row => !row.hidden).length;
  document.getElementById("count").value = `${shown} of ${rows.rows.length} rows`;
};
filter.addEventListener("input", applyFilter);
status?.addEventListener("change", applyFilter);
applyFilter();

const steps = find("details.step"), openAll = document.getElementById("open-all");
openAll.addEventListener("click", () => {
  const open = steps.some(step => !step.open);
  steps.forEach(step => { step.open = open; });
});
steps.forEach(step => step.addEventListener("toggle", () => {
  openAll.textContent = steps.every(other => other.open) ? "Close all" : "Open all";
}));

const openStep = hash => {
  const target = hash && document.getElementById(decodeURIComponent(hash.slice(1)));
  if (!(target instanceof HTMLDetailsElement)) return;
  target.open = true;
  target.scrollIntoView();
  target.querySelector("summary").focus({preventScroll: true});
};
addEventListener("hashchange", () => openStep(location.hash));
document.addEventListener("click", event => {
  const link = event.target.closest("a[href^='#']");
  if (link && link.hash === location.hash) openStep(link.hash);
});
openStep(location.hash);

let closed = [];
addEventListener("beforeprint", () => {
  closed = find("details:not([open])");
  closed.forEach(details => { details.open = true; });
});
addEventListener("afterprint", () => closed.forEach(details => { details.open = false; }));
