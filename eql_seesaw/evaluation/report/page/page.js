"use strict";
// All content is elements of the page already, or text with its names escaped, which becomes elements.

const byId = (id) => document.getElementById(id);
const table = byId("category-table");
const dialog = byId("category");
const linkOf = (row) => row.querySelector("a");
const shownRows = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
// The row of a class's address, such as #category-12.
const rowOf = (address) => (/^#category-\d+$/.test(address) ? table.querySelector(`a[href="${address}"]`)?.closest("tr") : null);

// [heading, text] of the numbers that the table shows of a class.
function facts(row) {
  const headers = [...table.tHead.rows[0].cells].slice(1);
  return headers.filter((header) => getComputedStyle(header).display !== "none")
    .map((header) => [header.textContent, row.cells[header.cellIndex].textContent]);
}

// One stop of the Tab key for many links; arrow keys go on from there.
function walkable(container, links, stepsOfKeys) {
  const setStop = (stop) => { for (const link of links()) link.setAttribute("tabindex", link === stop ? 0 : -1); };
  container.addEventListener("keydown", (event) => {
    const all = links();
    const from = all.indexOf(document.activeElement);
    if (from < 0 || !(event.key in stepsOfKeys)) return;
    event.preventDefault();
    const to = all[Math.min(Math.max(from + stepsOfKeys[event.key], 0), all.length - 1)];
    setStop(to);
    to.focus();
  });
  setStop(links()[0]);
  return () => setStop(links()[0]);
}

for (const input of document.querySelectorAll("input[name=iou-type]")) {
  input.addEventListener("change", () => { document.body.className = `show-${input.value}`; });
}

// Sorting and searching the table.
const collator = new Intl.Collator("en", { numeric: true });

function sortBy(header) {
  const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
  const isText = header.classList.contains("text");
  const rows = [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[header.cellIndex];
    const text = cell.dataset.order ?? cell.textContent;
    return [row, isText ? text : Number(text.replaceAll(",", "").replace("−", "-"))];
  });
  // What is missing comes last, whatever the direction.
  rows.sort(([, a], [, b]) => (isText ? sign * collator.compare(a, b) : Number.isNaN(a) - Number.isNaN(b) || sign * (a - b) || 0));
  table.tBodies[0].append(...rows.map(([row]) => row));
  resetStop();
}

function search() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const group = byId("group-filter").selectedIndex ? byId("group-filter").value : null;
  for (const row of table.tBodies[0].rows) {
    const name = linkOf(row).textContent.toLowerCase();
    row.hidden = (group !== null && row.cells[1].textContent !== group) || !words.every((word) => name.includes(word));
  }
  const count = (n) => n.toLocaleString("en");
  byId("count").textContent = `${count(shownRows().length)} of ${count(table.tBodies[0].rows.length)} categories`;
  resetStop();
}

const resetStop = walkable(table, () => shownRows().map(linkOf),
  { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -Infinity, End: Infinity });
for (const header of table.tHead.rows[0].cells) header.addEventListener("click", () => sortBy(header));
table.tBodies[0].addEventListener("click", ({ target }) => { if (target.tagName !== "A") location.hash = linkOf(target.closest("tr")).hash; });
byId("search").addEventListener("input", search);
byId("group-filter").addEventListener("change", search);
byId("search").form.addEventListener("submit", (event) => event.preventDefault());
search();

// Marks of charts are links to classes. The line below says what is pointed at.
for (const chart of document.querySelectorAll(".chart:has(+ .status)")) {
  const links = [...chart.querySelectorAll("a")];
  const say = ({ target }) => {
    const row = rowOf(target.closest("a")?.getAttribute("xlink:href"));
    if (row) chart.nextElementSibling.textContent = `${linkOf(row).textContent}: ${facts(row).map((fact) => fact.join(" ")).join(", ")}`;
  };
  chart.addEventListener("pointerover", say);
  chart.addEventListener("focusin", say);
  if (links.length) walkable(chart, () => links, { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity });
  else chart.nextElementSibling.textContent = "No class to show.";
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
  const rows = shownRows();
  const position = rows.indexOf(row);
  byId("previous").disabled = position <= 0;
  byId("next").disabled = position < 0 || position === rows.length - 1;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  byId("category-name").focus();
}

window.addEventListener("hashchange", showCategory);
dialog.addEventListener("close", () => {
  // Without a jump to the top of the page.
  if (rowOf(location.hash)) history.replaceState(null, "", "#");
});
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
byId("close").addEventListener("click", () => dialog.close());
for (const [id, step] of [["previous", -1], ["next", 1]]) {
  byId(id).addEventListener("click", () => {
    const rows = shownRows();
    location.hash = linkOf(rows[rows.indexOf(rowOf(location.hash)) + step]).hash;
  });
}
showCategory();
