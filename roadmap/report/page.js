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

const make = (tag, text, properties) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...[text ?? []].flat());
  return element;
};
const tableOf = (label, heads, lines, kind) => {
  const cell = (tag, text, i, scope) => {
    const made = make(tag, text, {className: i && kind ? kind : ""});
    if (scope) made.scope = scope;
    return made;
  };
  const row = line => make("tr", line.map((text, i) => cell(i ? "td" : "th", text, i, i ? "" : "row")));
  const head = make("thead", make("tr", heads.map((text, i) => cell("th", text, i, "col"))));
  const box = make("div", make("table", [head, make("tbody", lines.map(row))]), {className: "scroll", tabIndex: 0});
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", label + ", scrolls sideways");
  return box;
};

// Return the steps from list a to list b: ["same", x], ["del", x] or ["ins", x], with as many "same" as possible.
const differences = (a, b) => {
  const common = Array.from({length: a.length + 1}, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    }
  }
  const steps = [];
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      steps.push(["same", a[i++]]);
      j++;
    } else if (i < a.length && (j === b.length || common[i + 1][j] >= common[i][j + 1])) {
      steps.push(["del", a[i++]]);
    } else {
      steps.push(["ins", b[j++]]);
    }
  }
  return steps;
};

const comparePairs = () => {
  const data = JSON.parse(document.getElementById("pair-data").textContent);
  const selects = find(".pair-row"), place = document.getElementById("pair");
  const text = number => data.texts[number];
  const signed = value => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(2);

  const results = (a, b) => {
    const lines = data.columns.map(([header, row]) => [header, text(row[a]), text(row[b])]);
    const parts = [make("h3", "Results"), tableOf("Table of results", ["", "A", "B"], lines, "number")];
    return parts;
  };

  const configuration = (a, b) => {
    const lines = data.fields.filter(([, row]) => row[a] !== row[b])
      .map(([name, row]) => [make("code", name), text(row[a]), text(row[b])]);
    const table = lines.length ? tableOf("Table of fields", ["field", "A", "B"], lines) : make("p", "No field differs.");
    return [make("h3", "Configuration"), table];
  };

  // Units of the same name are compared; neighbouring blocks with the same difference are one entry.
  const layers = (a, b) => {
    const heading = make("h3", "Layers");
    if (!data.layers[a] || !data.layers[b]) return [heading, make("p", "There is no list of layers of A or of B.")];
    const [before, after] = [a, b].map(row => new Map(data.layers[row]));
    const names = [...before.keys()];
    let last = -1; // units that only B has come after the unit before them
    for (const name of after.keys()) {
      const at = names.indexOf(name);
      if (at < 0) names.splice(++last, 0, name); else last = at;
    }
    const groups = [];
    for (const name of names) {
      const unit = network => network.has(name) ? data.units[network.get(name)] : [];
      const steps = differences(unit(before), unit(after));
      const only = !after.has(name) ? "only in A" : !before.has(name) ? "only in B" : "";
      const key = only + JSON.stringify(steps), words = text(name).match(/^(.*block )(\d+)$/);
      const previous = groups.at(-1);
      if (words && previous?.key === key && previous.prefix === words[1]) previous.end = words[2];
      else groups.push({key, steps, only, prefix: words?.[1], name: text(name), start: words?.[2], end: words?.[2]});
    }
    const signs = {same: "", del: "\u2212", ins: "+"};
    const changed = groups.filter(group => group.steps.some(([kind]) => kind !== "same"));
    const entries = changed.map(({steps, only, prefix, name, start, end}) => {
      const title = start === end ? name : `${prefix.replace(/ $/, "s ")}${start} to ${end}`;
      const items = steps.map(([kind, number]) => make("li", [
        make("span", signs[kind], {className: "kind"}),
        kind === "same" ? text(number) : make(kind, text(number)),
      ]));
      return make("li", [make("strong", title + (only && ` (${only})`)), make("ul", items)]);
    });
    const note = "Units that differ. \u2212: only in A. +: only in B. Without a sign: in both.";
    const content = entries.length ? [make("p", note, {className: "muted"}), make("ul", entries, {className: "layers"})]
      : [make("p", "The lists of layers are the same.")];
    return [heading, ...content];
  };

  const examples = (a, b) => {
    if (!data.sets.length) return [];
    const heading = make("h3", `${data.kind === "test" ? "Test" : "Held-out"} images on which A and B disagree`);
    const {images, right: counted, seeds: numbers} = data.sets.find(set => a in set.right && b in set.right) ?? {};
    if (!images) return [heading, make("p", "There are no results of A and B on the same single images.")];
    const counts = [a, b].map(row => counted[row]), seeds = [a, b].map(row => numbers[row]);
    const right = (side, i) => counts[side].charCodeAt(i) - 48;
    const parts = [heading];
    for (const [better, worse] of [[0, 1], [1, 0]]) {
      // The difference of the shares of right seeds, as a whole number: seeds[0] * seeds[1] is one.
      const names = ["A", "B"], difference = i => right(better, i) * seeds[worse] - right(worse, i) * seeds[better];
      const found = images.map((_, i) => i).filter(i => 2 * difference(i) >= seeds[0] * seeds[1])
        .sort((x, y) => difference(y) - difference(x)).slice(0, data.most);
      parts.push(make("h4", `${names[better]} is right, ${names[worse]} is wrong`));
      if (!found.length) {
        parts.push(make("p", `Among the images of this page, there is none on which ${names[better]} is right more often by half of the seeds.`));
        continue;
      }
      const entries = found.map(i => {
        const [index, source, label] = images[i];
        const words = `${label && label + ", "}image ${index}: right in ${right(better, i)} of ${seeds[better]}`
          + ` seeds of ${names[better]}, ${right(worse, i)} of ${seeds[worse]} of ${names[worse]}`;
        const alt = `Image ${index}, of the class ${label}`;
        const show = picture => { if (picture.naturalWidth <= 32) picture.className = "tiny"; };
        const picture = make("img", null, {src: source, alt, onload: event => show(event.target)});
        return make("li", source ? [picture, words] : words);
      });
      parts.push(make("ul", entries, {className: found.some(i => images[i][1]) ? "examples" : "examples named"}));
    }
    if (!images.some(image => image[1])) parts.push(make("p", "This page has no pictures of the images."));
    return parts;
  };

  const show = () => {
    const [a, b] = selects.map(select => Number(select.value));
    const [before, after] = [a, b].map(row => data.top1[row]);
    const gain = before === null || after === null ? "" : ` B \u2212 A: ${signed(after - before)} points of mean top-1.`;
    document.getElementById("pair-summary").textContent
      = `A: ${a} ${data.labels[a]}. B: ${b} ${data.labels[b]}.${gain}`;
    place.replaceChildren(...results(a, b), ...configuration(a, b), ...layers(a, b), ...examples(a, b));
  };
  selects.forEach(select => select.addEventListener("change", show));
  document.getElementById("swap").addEventListener("click", () => {
    [selects[0].value, selects[1].value] = [selects[1].value, selects[0].value];
    show();
  });
  show();
};
if (document.getElementById("pair-data")) comparePairs();
