"use strict";
// Moves, zooms, searches and selects. The list of families works without it.
const models = JSON.parse(document.getElementById("data").textContent);
const map = document.getElementById("map");
const nodes = [...map.querySelectorAll(".model")];
const whole = map.viewBox.baseVal;
const [width, height] = [whole.width, whole.height];
const cell = Number(map.dataset.cell);
const CLOSEST = cell * 4; // width of the view at the largest zoom
const NEAR = cell * 14; // width of the view below which every dog has its name
let view = { x: 0, y: 0, width, height };

function show(next) {
  const wide = Math.min(Math.max(next.width, CLOSEST), width);
  const high = (wide * height) / width;
  const x = Math.min(Math.max(next.x, -wide / 3), width - (wide * 2) / 3);
  const y = Math.min(Math.max(next.y, -high / 3), height - (high * 2) / 3);
  view = { x, y, width: wide, height: high };
  map.setAttribute("viewBox", `${x} ${y} ${wide} ${high}`);
  // Zooming enlarges dogs less than the distances between them, which separates crowded dogs.
  map.style.setProperty("--shrink", Math.pow(wide / width, 0.35).toFixed(3));
  map.classList.toggle("near", wide <= NEAR);
  const scale = Math.max(wide / map.clientWidth, high / map.clientHeight);
  map.style.setProperty("--px", scale.toFixed(4)); // the size of names on the screen is constant
  requestAnimationFrame(separateNames);
}

// A name that would cross the edge of the map is moved beside it, if its dog is in sight.
function keepInside(text, screen, scale) {
  const box = text.getBoundingClientRect();
  const over = Math.max(box.right + 2 - screen.right, 0) || Math.min(box.left - 2 - screen.left, 0);
  if (over !== 0 && Math.abs(over) <= box.width / 2) text.setAttribute("dx", (-over * scale).toFixed(2));
  return text.getBoundingClientRect();
}

// Of names that would overlap on the screen, the chosen, the found and the first are shown.
function separateNames() {
  const rank = (text) => {
    const node = text.closest(".model");
    return node?.classList.contains("chosen") ? 0 : node?.classList.contains("found") ? 1 : 2;
  };
  const screen = map.getBoundingClientRect();
  const scale = Number(map.style.getPropertyValue("--px"));
  const placed = [];
  const shown = [...map.querySelectorAll("text")].filter((text) => {
    text.classList.remove("covered");
    text.removeAttribute("dx");
    return getComputedStyle(text).display !== "none";
  });
  const boxes = shown.map((text) => [text, keepInside(text, screen, scale), rank(text)]);
  for (const [text, box] of boxes.sort((a, b) => a[2] - b[2])) {
    if (box.right < screen.left || box.left > screen.right || box.bottom < screen.top || box.top > screen.bottom) continue;
    const covered = placed.some((other) => box.left < other.right && other.left < box.right && box.top < other.bottom && other.top < box.bottom);
    text.classList.toggle("covered", covered);
    if (!covered) placed.push(box);
  }
}

function zoom(factor, x = view.x + view.width / 2, y = view.y + view.height / 2) {
  const wide = Math.min(Math.max(view.width * factor, CLOSEST), width);
  const scale = wide / view.width;
  show({ x: x - (x - view.x) * scale, y: y - (y - view.y) * scale, width: wide });
}

function unitsAt(event) {
  const point = new DOMPoint(event.clientX, event.clientY);
  return point.matrixTransform(map.getScreenCTM().inverse());
}

function centre(model) {
  const wide = Math.min(view.width, NEAR);
  const high = (wide * height) / width;
  show({ x: models[model].x - wide / 2, y: models[model].y - high / 2, width: wide });
}

function make(tag, text, name = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = name;
  return element;
}

function link(model, text = models[model].model) {
  const button = make("button", text, "plain");
  button.type = "button";
  button.dataset.model = model;
  return button;
}

function portrait(model) {
  const svg = document.createElementNS(map.namespaceURI, "svg");
  svg.setAttribute("viewBox", `0 0 ${cell} ${cell}`);
  const use = document.createElementNS(map.namespaceURI, "use");
  for (const [name, value] of [["href", `#dog-${model}`], ["width", cell], ["height", cell]]) {
    use.setAttribute(name, value);
  }
  svg.append(use);
  return svg;
}

function choose(model, move = true) {
  const one = models[model];
  nodes.forEach((node, i) => node.classList.toggle("chosen", i === model));
  nodes[model].parentElement.append(nodes[model]); // draw it over its neighbours
  requestAnimationFrame(separateNames);
  const facts = document.createElement("dl");
  const state = (name, value) => {
    const cellOf = document.createElement("dd");
    cellOf.append(value);
    facts.append(make("dt", name), cellOf);
  };
  if (one.revision) state("commit", one.revision);
  if (one.base) state("declares", one.base_at === null ? one.base : link(one.base_at, one.base));
  state("measured", one.by ? `${one.date} by ${one.by}` : one.date);
  const kin = document.createElement("ul");
  kin.id = "kin";
  for (const [other, ics] of one.kin) {
    const row = document.createElement("li");
    row.append(link(other), make("span", ics.toFixed(2)));
    kin.append(row);
  }
  const card = document.getElementById("card");
  card.replaceChildren();
  if (document.getElementById(`dog-${model}`)) card.append(portrait(model));
  card.append(make("h3", one.model), facts);
  if (one.base_at !== null && !one.kin.some(([other]) => other === one.base_at)) {
    const words = `ICS with the declared base: ${one.base_ics.toFixed(2)}`;
    card.append(make("p", words, one.base_ics < 0.1 ? "alarm" : "quiet"));
  }
  card.append(make("p", one.kin.length ? "Most similar (ICS):" : "No related models here.", "quiet"), kin);
  if (move) centre(model);
}

function search() {
  const text = document.getElementById("search").value.trim().toLowerCase();
  const found = text
    ? models.map((_, i) => i).filter((i) => `${models[i].model} ${models[i].base}`.toLowerCase().includes(text))
    : [];
  const set = new Set(found);
  nodes.forEach((node) => node.classList.toggle("found", set.has(Number(node.dataset.model))));
  map.classList.toggle("filtered", text !== "");
  requestAnimationFrame(separateNames);
  document.getElementById("count").textContent = text ? `${found.length} found` : "";
  const rows = found.slice(0, 50).map((i) => {
    const row = document.createElement("li");
    const button = link(i);
    button.className = "";
    row.append(button);
    return row;
  });
  document.getElementById("hits").replaceChildren(...rows);
  return found;
}

show(view);
window.addEventListener("resize", () => show(view));

let dragStart = null;
let moved = false;
map.addEventListener("pointerdown", (event) => {
  dragStart = unitsAt(event);
  moved = false;
});
window.addEventListener("pointermove", (event) => {
  if (!dragStart) return;
  const now = unitsAt(event);
  if (!moved && Math.hypot(now.x - dragStart.x, now.y - dragStart.y) < view.width / 200) return;
  moved = true;
  map.classList.add("dragged");
  show({ ...view, x: view.x + dragStart.x - now.x, y: view.y + dragStart.y - now.y });
});
window.addEventListener("pointerup", () => {
  dragStart = null;
  map.classList.remove("dragged");
});
map.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    const at = unitsAt(event);
    zoom(Math.pow(1.0015, event.deltaY), at.x, at.y);
  },
  { passive: false },
);
document.getElementById("in").addEventListener("click", () => zoom(0.6));
document.getElementById("out").addEventListener("click", () => zoom(1 / 0.6));
document.getElementById("all").addEventListener("click", () => show({ x: 0, y: 0, width }));
document.getElementById("search").addEventListener("input", search);
document.getElementById("search").addEventListener("keydown", (event) => {
  const [first] = event.key === "Enter" ? search() : [];
  if (first !== undefined) choose(first);
});
document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-model]");
  if (!target || (moved && map.contains(target))) return;
  choose(Number(target.dataset.model), !map.contains(target));
  if (!map.contains(target)) map.scrollIntoView({ block: "nearest" });
});
