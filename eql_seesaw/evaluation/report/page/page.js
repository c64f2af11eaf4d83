"use strict";
// All content is elements of the page already, or text with its names escaped, which becomes elements.

const byId = (id) => document.getElementById(id);
const table = byId("category-table");
const rows = table.tBodies[0].rows;
const dialog = document.querySelector("dialog");
const linkOf = (row) => row.querySelector("a");
const shownRows = () => [...rows].filter((row) => !row.hidden);
// The row of a class's address, such as #category-12.
const rowOf = (address) => (/^#category-\d+$/.test(address) ? table.querySelector(`a[href="${address}"]`)?.closest("tr") : null);

// [heading, text] of the numbers that the table shows of a class.
function facts(row) {
  return [...row.cells].slice(1).filter((cell) => getComputedStyle(cell).display !== "none")
    .map((cell) => [table.tHead.rows[0].cells[cell.cellIndex].textContent, cell.textContent]);
}

// The Tab key stops at the container, not at each of its many links; arrow keys go on from there.
function walkable(container, links, steps) {
  for (const link of links()) link.setAttribute("tabindex", -1);
  container.addEventListener("keydown", (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    const all = links();
    const to = all.indexOf(document.activeElement) + steps[event.key];
    all[Math.min(Math.max(to, 0), all.length - 1)]?.focus();
  });
}

// Sorting and searching the table.
const collator = new Intl.Collator("en", { numeric: true });

function sortBy(header) {
  const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
  const isText = header.classList.contains("text");
  const value = (row) => {
    const cell = row.cells[header.cellIndex];
    const text = cell.dataset.order ?? cell.textContent;
    return isText ? text : Number(text.replaceAll(",", "").replace("−", "-"));
  };
  // What is missing comes last, whatever the direction.
  const compare = (a, b) => (isText ? sign * collator.compare(a, b) : Number.isNaN(a) - Number.isNaN(b) || sign * (a - b) || 0);
  const values = new Map([...rows].map((row) => [row, value(row)]));
  table.tBodies[0].append(...[...rows].sort((a, b) => compare(values.get(a), values.get(b))));
}

function search() {
  const words = byId("search").value.toLowerCase().split(/\s+/);
  const group = byId("group-filter").value;
  for (const row of rows) {
    const name = linkOf(row).textContent.toLowerCase();
    row.hidden = (group && row.cells[1].textContent !== group) || !words.every((word) => name.includes(word));
  }
  const count = (n) => n.toLocaleString("en");
  byId("count").textContent = `${count(shownRows().length)} of ${count(rows.length)} categories`;
}

for (const header of table.tHead.rows[0].cells) header.addEventListener("click", () => sortBy(header));
table.tBodies[0].addEventListener("click", ({ target }) => { if (target.tagName !== "A") linkOf(target.closest("tr")).click(); });
byId("search").addEventListener("input", search);
byId("group-filter").addEventListener("change", search);
walkable(table.parentNode, () => shownRows().map(linkOf),
  { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -Infinity, End: Infinity });
search();

// Marks of charts are links to classes. The line below says what is pointed at.
for (const chart of document.querySelectorAll(".chart.classes")) {
  const status = chart.nextElementSibling;
  const links = [...chart.querySelectorAll("a")];
  const say = ({ target }) => {
    const row = rowOf(target.closest("a")?.getAttribute("xlink:href"));
    if (row) status.textContent = `${linkOf(row).textContent}: ${facts(row).map((fact) => fact.join(" ")).join(", ")}`;
  };
  chart.addEventListener("pointerover", say);
  chart.addEventListener("focusin", say);
  walkable(chart, () => links, { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity });
  if (!links.length) status.textContent = "No class to show.";
}

// The class of the address is open: the browser's Back closes it, and a link can lead to it.
function showCategory() {
  const row = rowOf(location.hash);
  if (!row) return dialog.close();
  byId("category-name").textContent = linkOf(row).textContent;
  byId("category-facts").replaceChildren(...facts(row).map((texts) => {
    const fact = document.createElement("div");
    ["dt", "dd"].forEach((name, i) => { fact.appendChild(document.createElement(name)).textContent = texts[i]; });
    return fact;
  }));
  byId("category-content").innerHTML = byId(location.hash.replace("#category", "content")).textContent;
  for (const image of dialog.querySelectorAll("image")) image.setAttribute("href", byId(image.dataset.picture).textContent);
  const shown = shownRows();
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    const other = shown[shown.indexOf(row) + step];
    if (other) byId(id).href = linkOf(other).hash;
    else byId(id).removeAttribute("href");
  }
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  byId("category-name").focus();
}

window.addEventListener("hashchange", showCategory);
// Without a jump to the top of the page.
dialog.addEventListener("close", () => { if (rowOf(location.hash)) history.replaceState(null, "", "#"); });
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
showCategory();
