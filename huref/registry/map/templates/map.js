"use strict";
// The families below the map can be read without this: it moves, zooms, finds and chooses.
const models = JSON.parse(document.getElementById("data").textContent);
const map = document.getElementById("map");
const nodes = [...map.querySelectorAll(".model")];
const whole = map.viewBox.baseVal;
const [width, height] = [whole.width, whole.height];
const cell = Number(map.dataset.cell);
const CLOSEST = cell * 4; // units across when zoomed in all the way
const NEAR = cell * 14; // from here on every dog has its name
let view = { x: 0, y: 0, width, height };

function show(next) {
  const wide = Math.min(Math.max(next.width, CLOSEST), width);
  const high = (wide * height) / width;
  const x = Math.min(Math.max(next.x, -wide / 3), width - (wide * 2) / 3);
  const y = Math.min(Math.max(next.y, -high / 3), height - (high * 2) / 3);
  view = { x, y, width: wide, height: high };
  map.setAttribute("viewBox", `${x} ${y} ${wide} ${high}`);
  // Dogs grow more slowly than the distances between them, so that zooming parts a crowd.
  map.style.setProperty("--shrink", Math.pow(wide / width, 0.35).toFixed(3));
  map.classList.toggle("near", wide <= NEAR);
  const scale = Math.max(wide / map.clientWidth, high / map.clientHeight);
  map.style.setProperty("--px", scale.toFixed(4)); // names keep their size on the screen
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
  nodes[model].parentElement.append(nodes[model]); // on top of its neighbours
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
  card.append(make("p", one.kin.length ? "Most like it (ICS):" : "Nothing here is kin to it.", "quiet"), kin);
  if (move) centre(model);
}

function search() {
  const asked = document.getElementById("search").value.trim().toLowerCase();
  const found = asked
    ? models.map((_, i) => i).filter((i) => `${models[i].model} ${models[i].base}`.toLowerCase().includes(asked))
    : [];
  const set = new Set(found);
  nodes.forEach((node) => node.classList.toggle("found", set.has(Number(node.dataset.model))));
  map.classList.toggle("filtered", asked !== "");
  document.getElementById("count").textContent = asked ? `${found.length} found` : "";
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

let held = null;
let moved = false;
map.addEventListener("pointerdown", (event) => {
  held = unitsAt(event);
  moved = false;
});
window.addEventListener("pointermove", (event) => {
  if (!held) return;
  const now = unitsAt(event);
  if (!moved && Math.hypot(now.x - held.x, now.y - held.y) < view.width / 200) return;
  moved = true;
  map.classList.add("held");
  show({ ...view, x: view.x + held.x - now.x, y: view.y + held.y - now.y });
});
window.addEventListener("pointerup", () => {
  held = null;
  map.classList.remove("held");
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
