"use strict";
// The page is complete without this script, which only sorts and filters the tables.
for (const table of document.querySelectorAll("table.pairs")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th[data-sort]").forEach((head) => {
    const column = head.cellIndex;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") !== "descending";
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => {
        const [x, y] = [Number(key(a)), Number(key(b))];
        return Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b)) : x - y;
      };
      const rows = [...body.rows].sort((a, b) => (falling ? compare(b, a) : compare(a, b)));
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      body.append(...rows);
    });
  });
  if (body.rows.length > 8) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "search";
    label.className = "filter";
    label.append("Show pairs with ", box);
    table.parentElement.before(label);
    box.addEventListener("input", () => {
      const wanted = box.value.toLowerCase();
      for (const row of body.rows) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
      }
    });
  }
}
