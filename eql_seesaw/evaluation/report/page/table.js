"use strict";
// The table of categories: sorted by its headers, searched, and walked through with arrow keys.

const table = byId("category-table");
let rowsInOrder = []; // classes that are shown, in the order of the table
let rowOfClass = [];
// The worst classes first.
let sorting = { column: `AP ${Object.keys(data.tasks)[0]}`, descending: false };

// {key: {title, of: (k) => value, show: (value) => text}} of one task's numbers.
function categoryColumns(task) {
  const percent = (values) => ({ of: (k) => values[k], show: decimal });
  const columns = {
    name: { title: "Name", of: (k) => data.names[k] },
    group: { title: "Group", of: (k) => groups.indexOf(data.group[k]), show: (i) => data.groups[groups[i]], text: true },
    trainImages: { title: "Training images", of: (k) => data.trainImages[k], show: whole },
    objects: { title: "Objects", of: (k) => data.objects[k], show: whole },
  };
  const names = { bbox: "AP\u00a0box", segm: "AP\u00a0mask" };
  for (const [key, title] of Object.entries(names)) {
    if (key in data.tasks) columns[`AP ${key}`] = { title, ...percent(data[key].AP) };
  }
  if (data.other !== null) {
    const { AP, otherAP } = data[task];
    columns.otherAP = { title: `${names[task]}, ${data.other}`, ...percent(otherAP) };
    columns.difference = { title: "Difference", of: (k) => difference(AP[k], otherAP[k]), show: signed };
  }
  for (const [key, title] of Object.entries({ AP50: "AP50", AR: "AR", precision: "Precision", recall: "Recall" })) {
    columns[key] = { title, ...percent(data[task][key]) };
  }
  return columns;
}

function drawTable(task) {
  const columns = categoryColumns(task);
  table.tHead.replaceChildren(
    html("tr", {}, ...Object.entries(columns).map(([key, { title, text }]) =>
      html("th", { scope: "col", class: key === "name" || text ? "text" : null, "data-column": key },
        html("button", { type: "button", click: () => sortBy(columns, key) }, key === "otherAP" ? clamped(title) : title)))),
  );
  rowOfClass = classes.map((k) => {
    const row = html("tr", { click: (event) => { if (event.target.tagName !== "BUTTON") openCategory(k); } });
    for (const [key, { of, show, text }] of Object.entries(columns)) {
      if (key === "name") {
        row.append(html("th", { scope: "row" }, nameButton(k)));
        continue;
      }
      const value = of(k);
      row.append(html("td", { class: value === null ? "missing" : text ? "text" : null }, show(value)));
    }
    return row;
  });
  sort(columns);
}

function sortBy(columns, key) {
  sorting = { column: key, descending: sorting.column === key && !sorting.descending };
  sort(columns);
}

const collator = new Intl.Collator("en", { numeric: true });

function sort(columns) {
  const { column, descending } = sorting;
  for (const header of table.tHead.rows[0].cells) {
    if (header.dataset.column !== column) header.removeAttribute("aria-sort");
    else header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  }
  const values = classes.map(columns[column].of);
  const sign = descending ? -1 : 1;
  const compare = typeof values[0] === "string" ? collator.compare : (a, b) => a - b;
  // What is missing comes last, whatever the direction.
  const order = [...classes].sort((a, b) =>
    values[a] === null || values[b] === null
      ? (values[a] === null) - (values[b] === null) || a - b
      : sign * compare(values[a], values[b]) || a - b);
  table.tBodies[0].replaceChildren(...order.map((k) => rowOfClass[k]));
  filter(order);
}

function filter(order) {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const group = byId("group-filter").value;
  const isShown = (k) =>
    (!group || data.group[k] === group) && words.every((word) => data.names[k].toLowerCase().includes(word));
  for (const k of order) rowOfClass[k].hidden = !isShown(k);
  rowsInOrder = order.filter(isShown);
  byId("count").textContent = `${whole(rowsInOrder.length)} of ${whole(classes.length)} categories`;
  // One stop of the Tab key for the whole table; arrow keys go on from there.
  for (const k of order) nameOfRow(k).tabIndex = -1;
  if (rowsInOrder.length) nameOfRow(rowsInOrder[0]).tabIndex = 0;
}

const nameOfRow = (k) => rowOfClass[k].querySelector("button");

function filterAgain() {
  filter([...table.tBodies[0].rows].map((row) => rowOfClass.indexOf(row)));
}

byId("search").addEventListener("input", filterAgain);
byId("group-filter").addEventListener("change", filterAgain);
byId("search").form.addEventListener("submit", (event) => event.preventDefault());

table.tBodies[0].addEventListener("keydown", (event) => {
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -Infinity, End: Infinity };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const from = rowsInOrder.findIndex((k) => nameOfRow(k) === document.activeElement);
  const to = Math.min(Math.max(from + steps[event.key], 0), rowsInOrder.length - 1);
  nameOfRow(rowsInOrder[from]).tabIndex = -1;
  nameOfRow(rowsInOrder[to]).tabIndex = 0;
  nameOfRow(rowsInOrder[to]).focus();
});
