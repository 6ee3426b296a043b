"use strict";
// Reading order: numbers, what is shown, painting, heads, events. A point is { kind: "word" or "region", index }.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const T = data.words.length, R = data.regions.length;
const names = { word: data.words, region: data.regions };

// Numbers ----------------------------------------------------------------------------------------------------------

function unpack({ high, codes }) {
  const bytes = Uint8Array.from(atob(codes), (letter) => letter.charCodeAt(0));
  return Float32Array.from(new Uint16Array(bytes.buffer), (code) => high * (code / 65535) ** 2);
}
const unpackAll = (maps) => Object.fromEntries(Object.entries(maps).map(([name, map]) => [name, unpack(map)]));
const attention = unpackAll(data.attention); // [L][H][queries][keys] of each direction, flat
const relevance = unpackAll(data.relevance); // empty where nothing is explained

const sum = (values) => values.reduce((total, value) => total + value, 0);
const largest = (values) => values.reduce((most, value) => Math.max(most, value), 0);
const shares = (values) => { const total = sum(values); return values.map((value) => (total > 0 ? value / total : 0)); };
const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)}\u00a0%`;
// Isolated, so that text from right to left leaves the sentence around it alone.
const brief = (text) => `\u2068${text.length > 40 ? `${text.slice(0, 39)}…` : text}\u2069`;
const naming = (kind, index) => (kind === "word" ? `“${brief(names.word[index])}”` : brief(names.region[index]));

// What is shown ----------------------------------------------------------------------------------------------------

// It begins as `Explanation.weights` does.
const state = {
  direction: "text_to_vision", measure: relevance.words ? "relevance" : "attention", layer: null, head: null,
  withoutSpecial: true, withoutGlobal: true,
  hovered: null, focused: null, pinned: null,
};
let kept; // { word: [T] bool, region: [R] bool }: what is not left out
let links; // [T][R] of the settings, flat: what `Explanation.weights` returns
let together; // the same without the queries that are left out, and of relevance not yet shares: for sums over queries

function oneHead(layer, head) {
  const start = (layer * data.heads + head) * T * R;
  return attention[state.direction].subarray(start, start + T * R);
}

function meanOf(maps) {
  const result = new Float32Array(T * R);
  for (const map of maps) map.forEach((value, place) => { result[place] += value / maps.length; });
  return result;
}

// A map as [T][R], over what is kept to look at, as shares of each query or as they are. Rows without any stay 0.
function linksOf(map, { share, allQueries }) {
  const wordsLook = state.direction === "text_to_vision";
  const [queries, keys] = wordsLook ? [kept.word, kept.region] : [kept.region, kept.word];
  const result = new Float32Array(T * R);
  queries.forEach((isKept, query) => {
    if (!isKept && !allQueries) return;
    const row = map.subarray(query * keys.length, (query + 1) * keys.length).map((value, key) => (keys[key] ? value : 0));
    (share ? shares(row) : row).forEach((value, key) => {
      result[wordsLook ? query * R + key : key * R + query] = value;
    });
  });
  return result;
}

function update() {
  kept = {
    word: data.words.map((_, index) => !(state.withoutSpecial && data.special[index])),
    region: data.regions.map((_, index) => !(state.withoutGlobal && data.global.includes(index))),
  };
  const isRelevance = state.measure === "relevance";
  const all = (count, chosen) => (chosen === null ? [...Array(count).keys()] : [chosen]);
  const map = isRelevance
    ? relevance[state.direction]
    : meanOf(all(data.layers, state.layer).flatMap((layer) => all(data.heads, state.head).map((head) => oneHead(layer, head))));
  links = linksOf(map, { share: true, allQueries: true });
  // Attention of every query has the sum 1; of relevance some queries have more than others.
  together = linksOf(map, { share: !isRelevance, allQueries: false });
  showSettings();
  paint();
}

const row = (map, word) => map.subarray(word * R, (word + 1) * R);
const column = (map, region) => Float32Array.from(names.word, (_, word) => map[word * R + region]);
const looking = () => (state.direction === "text_to_vision" ? "word" : "region");

// The weights of all words and regions beside a point, or without one of all together; null where there are none.
function weightsFor(point) {
  if (point) {
    const looks = point.kind === looking(), map = looks ? links : together;
    const weights = point.kind === "word" ? row(map, point.index) : column(map, point.index);
    const result = state.measure === "relevance" && !looks ? shares(weights) : weights;
    return point.kind === "word" ? { word: null, region: result } : { word: result, region: null };
  }
  if (state.measure === "relevance") {
    const left = (kind, values) => shares(values.map((value, index) => (kept[kind][index] ? value : 0)));
    return { word: left("word", relevance.words), region: left("region", relevance.regions) };
  }
  const mean = (count, values) => Float32Array.from(values, (value) => value / Math.max(1, count));
  return looking() === "word"
    ? { word: null, region: mean(sum(kept.word.map(Number)), names.region.map((_, region) => sum(column(together, region)))) }
    : { word: mean(sum(kept.region.map(Number)), names.word.map((_, word) => sum(row(together, word)))), region: null };
}

// Painting ---------------------------------------------------------------------------------------------------------

const make = (tag, text, attributes = {}) => {
  const element = Object.assign(document.createElement(tag), attributes);
  if (text !== undefined) element.textContent = text;
  return element;
};
const all = (selector) => [...document.querySelectorAll(selector)];
const points = {
  word: all("[data-word]"),
  region: all("[data-region]").sort((one, other) => one.dataset.region - other.dataset.region),
};
const lights = { word: points.word.map((element) => [element]), region: data.regions.map(() => []) };
for (const element of all("[data-light]")) lights.region[element.dataset.light].push(element);
for (const element of points.region) {
  if (element.tagName === "BUTTON") lights.region[element.dataset.region].push(element);
}
const pointOf = (element) => {
  const found = element.closest?.("[data-word], [data-region]");
  if (!found) return null;
  const kind = found.dataset.word === undefined ? "region" : "word";
  return { kind, index: Number(found.dataset[kind]) };
};
const same = (one, other) => one?.kind === other?.kind && one?.index === other?.index;
const current = () => state.hovered ?? state.focused ?? state.pinned;

const strongest = (weights, count) =>
  [...weights.keys()].filter((index) => weights[index] > 0).sort((a, b) => weights[b] - weights[a]).slice(0, count);

function paint() {
  const point = current(), weights = weightsFor(point);
  for (const kind of ["word", "region"]) {
    const values = weights[kind] ?? new Float32Array(names[kind].length);
    // Even weights must not look like a find: what shines has three times its even share, or the most there is.
    const keys = looking() === "word" ? "region" : "word";
    const even = 1 / Math.max(1, sum(kept[state.measure === "attention" ? keys : kind].map(Number)));
    const full = Math.max(largest(values), 3 * even);
    lights[kind].forEach((elements, index) => {
      for (const element of elements) element.style.setProperty("--weight", Math.max(0, values[index] / full).toFixed(3));
    });
    const named = new Set(strongest(values, 6));
    points[kind].forEach((element) => {
      const here = pointOf(element);
      element.classList.toggle("shown", same(here, point));
      element.classList.toggle("left-out", !kept[kind][here.index]);
      element.setAttribute("aria-pressed", same(here, state.pinned));
      const note = element.querySelector("small");
      if (note) note.textContent = named.has(here.index) ? percent(values[here.index]) : "";
    });
  }
  // A region of which we see the words shines itself.
  if (point?.kind === "region") for (const element of lights.region[point.index]) element.style.setProperty("--weight", 1);
  const hasLight = weights.region || (point?.kind === "region" && !data.global.includes(point.index));
  byId("shade").style.fillOpacity = hasLight ? "" : 0.15;
  paintChips(weights.region);
  paintLinks(point, weights);
}

function paintChips(weights) {
  const chips = weights ? strongest(weights, 3).filter((index) => !data.global.includes(index)) : [];
  byId("chips").replaceChildren(...chips.reverse().map((index) => {
    const box = points.region[index];
    const { width, height } = box.ownerSVGElement.viewBox.baseVal;
    const label = data.labels[index];
    const chip = make("span", `${percent(weights[index])}${label ? ` ${brief(label)}` : ""}`);
    chip.style.left = `min(${(100 * box.x.baseVal.value) / width}%, 100% - 8em)`;
    chip.style.top = `max(0px, ${(100 * box.y.baseVal.value) / height}%)`;
    return chip;
  }));
}

function sentence(point, weights) {
  const list = (kind) => strongest(weights[kind], 3)
    .map((index) => `${naming(kind, index)} (${percent(weights[kind][index])})`).join(", ") || "nothing";
  const target = `“${brief(data.target)}”`, other = weights.word ? "word" : "region", looks = looking();
  if (point && point.kind !== looks && !kept[point.kind][point.index]) return `${naming(point.kind, point.index)} is left out.`;
  if (state.measure === "relevance") {
    return point
      ? `Relevance for ${target}, with ${naming(point.kind, point.index)}: ${list(other)}.`
      : `Relevance for ${target}: ${list("word")}; ${list("region")}.`;
  }
  if (!point) return `On average, the ${looks}s look most at ${list(other)}.`;
  return point.kind === looks
    ? `${naming(point.kind, point.index)} looks most at ${list(other)}.`
    : `${naming(point.kind, point.index)} is looked at most by ${list(other)}, each out of its own 100 %.`;
}

function paintLinks(point, weights) {
  byId("summary").textContent = sentence(point, weights);
  let rows;
  if (point?.kind === "word") rows = strongest(weights.region, 6).map((region) => [point.index, region, weights.region[region]]);
  else if (point) rows = strongest(weights.word, 6).map((word) => [word, point.index, weights.word[word]]);
  else {
    const values = state.measure === "relevance" ? shares(together) : together;
    rows = strongest(values, 6).map((place) => [Math.floor(place / R), place % R, values[place]]);
  }
  byId("links").tBodies[0].replaceChildren(...rows.map(([word, region, value]) => {
    const line = make("tr");
    for (const text of [names.word[word], names.region[region], percent(value)]) {
      const cell = line.appendChild(make("td"));
      cell.append(make("bdi", text));
    }
    return line;
  }));
}

function paintTable() {
  if (!byId("all").open) return;
  const line = (cells) => { const result = make("tr"); result.append(...cells); return result; };
  const table = make("table");
  table.append(line([make("td"), ...data.words.map((word) => make("th", word, { scope: "col" }))]));
  data.regions.forEach((name, region) => table.append(line([
    make("th", name, { scope: "row" }),
    ...data.words.map((_, word) => make("td", links[word * R + region].toFixed(3))),
  ])));
  byId("all").querySelector("div").replaceChildren(table);
}

// Settings and heads -----------------------------------------------------------------------------------------------

const cells = [];
byId("grid").style.setProperty("--columns", data.heads);
byId("grid").append(make("span"), ...Array.from({ length: data.heads }, (_, head) => make("span", head)));
for (let layer = 0; layer < data.layers; layer++) {
  byId("grid").append(make("span", layer));
  for (let head = 0; head < data.heads; head++) {
    const button = make("button", undefined, { type: "button", tabIndex: -1 });
    button.append(make("canvas", undefined, { width: R, height: T }), make("small"));
    button.addEventListener("click", () => choose(layer, head));
    byId("grid").append(button);
    cells.push({ layer, head, button });
  }
}

function choose(layer, head) {
  const again = state.layer === layer && state.head === head;
  Object.assign(state, again ? { layer: null, head: null } : { layer, head }, { measure: "attention" });
  update();
}

function showSettings() {
  const isRelevance = state.measure === "relevance";
  byId("measure").textContent = isRelevance
    ? `relevance for “${brief(data.target)}”: attention times gradient, carried through all layers (Chefer et al., 2021)`
    : "raw attention (where the model looks, not why it answers)";
  for (const name of ["layer", "head"]) {
    byId(name).value = state[name] ?? "";
    byId(name).disabled = isRelevance;
  }
  for (const input of all("#controls input[type=radio]")) input.checked = state[input.name] === input.value;
  for (const input of all("#controls input[type=checkbox]")) input.checked = state[input.name];
  for (const { layer, head, button } of cells) {
    const isChosen = !isRelevance && state.layer === layer && state.head === head;
    button.setAttribute("aria-pressed", isChosen);
  }
  paintTable();
}

function paintHeads() {
  const statistics = data.statistics[state.direction];
  const select = byId("statistic");
  for (const option of select.options) option.disabled = option.hidden = !(option.value in statistics);
  if (!(select.value in statistics)) select.value = Object.keys(statistics)[0] ?? "";
  const table = statistics[select.value];
  const values = table ? table.flat() : [], low = Math.min(...values), high = Math.max(...values);
  cells.forEach(({ layer, head, button }, place) => {
    drawHead(button.firstChild, linksOf(oneHead(layer, head), { share: true, allQueries: false }));
    const value = values[place];
    const text = value === undefined ? "" : select.value === "entropy" ? value.toFixed(2) : percent(value);
    button.style.setProperty("--share", table && high > low ? (value - low) / (high - low) : 0);
    button.lastChild.textContent = text.replace("\u00a0", "");
    const meaning = text && `, ${select.selectedOptions[0].text.split(" (")[0]} ${text}`;
    button.setAttribute("aria-label", `Layer ${layer}, head ${head}${meaning}`);
  });
}

function drawHead(canvas, map) {
  const context = canvas.getContext("2d"), picture = context.createImageData(R, T), most = largest(map) || 1;
  map.forEach((value, place) => {
    picture.data.set([240, 175, 40, 255 * Math.sqrt(Math.max(0, value) / most)], 4 * place);
  });
  context.putImageData(picture, 0, 0);
}

// Events -----------------------------------------------------------------------------------------------------------

const show = (slot, point) => {
  if (same(state[slot], point)) return;
  state[slot] = point;
  paint();
};
document.addEventListener("pointerover", (event) => show("hovered", pointOf(event.target)));
document.documentElement.addEventListener("pointerleave", () => show("hovered", null));
// The latest counts: a pointer that rests on a word does not keep the keyboard from others.
document.addEventListener("focusin", (event) => {
  Object.assign(state, { hovered: null, focused: pointOf(event.target) });
  paint();
});
document.addEventListener("focusout", () => show("focused", null));
document.addEventListener("click", (event) => {
  const point = pointOf(event.target);
  if (point) show("pinned", same(state.pinned, point) ? null : point);
});

// A group of points is one stop of Tab; inside, arrows move.
function arrows(elements, columns = 1) {
  const reach = (element) => {
    for (const other of elements) other.setAttribute("tabindex", other === element ? 0 : -1);
  };
  reach(elements[0]);
  elements.forEach((element, place) => {
    element.addEventListener("focus", () => reach(element));
    element.addEventListener("keydown", (event) => {
      const last = elements.length - 1;
      const to = {
        ArrowRight: place + 1, ArrowLeft: place - 1, ArrowDown: place + columns, ArrowUp: place - columns, Home: 0, End: last,
      }[event.key];
      if (to !== undefined) {
        event.preventDefault();
        if (to >= 0 && to <= last) elements[to].focus();
      } else if ((event.key === "Enter" || event.key === " ") && element.tagName === "rect") {
        event.preventDefault();
        element.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      }
    });
  });
}
arrows(points.word);
arrows(points.region);
arrows(cells.map(({ button }) => button), data.heads);

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { Object.assign(state, { hovered: null, focused: null, pinned: null }); paint(); }
});
for (const input of all("#controls input[type=radio]")) {
  input.addEventListener("change", () => { state[input.name] = input.value; update(); paintHeads(); });
}
for (const name of ["layer", "head"]) {
  byId(name).addEventListener("change", (event) => {
    state[name] = event.target.value === "" ? null : Number(event.target.value);
    update();
  });
}
for (const input of all("#controls input[type=checkbox]")) {
  input.addEventListener("change", () => { state[input.name] = input.checked; update(); paintHeads(); });
}
byId("statistic").addEventListener("change", paintHeads);
byId("all").addEventListener("toggle", paintTable);

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const nameTheme = () => { byId("theme").textContent = isDark() ? "Light" : "Dark"; };
byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
dark.addEventListener("change", nameTheme);
nameTheme();
const { width, height } = document.querySelector("#image svg").viewBox.baseVal;
byId("image").style.setProperty("--ratio", width / height);
update();
paintHeads();
