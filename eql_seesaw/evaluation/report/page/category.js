"use strict";
// One class: its numbers, and its best and worst images, which are only decoded when it is opened.

const dialog = byId("category");
const HASH = /^#category-(-?\d+)$/;
let openClass = null;

// In the address, too: the browser's Back closes it, and a link can lead to it.
function openCategory(k) {
  history.pushState(null, "", `#category-${data.ids[k]}`);
  showCategoryOfAddress();
}

function showCategoryOfAddress() {
  const match = HASH.exec(location.hash);
  const k = match ? data.ids.indexOf(Number(match[1])) : -1;
  if (k < 0) {
    if (dialog.open) dialog.close();
    return;
  }
  openClass = k;
  byId("category-name").textContent = data.names[k];
  byId("category-content").replaceChildren(...categoryContent(k));
  const position = rowsInOrder.indexOf(k);
  byId("previous").disabled = position <= 0;
  byId("next").disabled = position < 0 || position === rowsInOrder.length - 1;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  byId("category-name").focus();
}

function categoryContent(k) {
  const element = byId(`examples-${k}`);
  // The end of a large file may still be on its way.
  if (element === null) {
    document.addEventListener("DOMContentLoaded", showCategoryOfAddress, { once: true });
    return [html("p", {}, "Loading…")];
  }
  const { best, worst, confused } = JSON.parse(element.textContent);
  const content = [facts(k)];
  if (confused.length) {
    const names = confused.flatMap(([other, count], i) => [i ? ", " : "", `${data.names[other]} (${whole(count)})`]);
    content.push(html("p", {}, "Objects detected as something else: ", ...names));
  }
  if (!best.length && !worst.length) {
    content.push(html("p", {}, `No image has an object of this class, or a detection of it that counts, with a score of at least ${data.threshold}.`));
    return content;
  }
  content.push(key());
  for (const [title, images] of [["Best images", best], ["Worst images", worst]]) {
    content.push(html("h3", {}, title));
    if (images.length) content.push(html("div", { class: "examples" }, ...images.map((example) => figure(k, example))));
    else content.push(html("p", {}, title === "Best images" ? "None has a right detection." : "None has a mistake."));
  }
  return content;
}

function facts(k) {
  const list = [["Group", data.groups[data.group[k]]], ["Training images", whole(data.trainImages[k])], ["Objects here", whole(data.objects[k])]];
  for (const [task, name] of Object.entries(data.tasks)) {
    list.push([`AP ${name}`, decimal(data[task].AP[k])]);
    if (data.other !== null) list.push([`AP ${name}, ${data.other}`, decimal(data[task].otherAP[k])]);
  }
  const { precision, recall } = data[Object.keys(data.tasks)[0]];
  list.push(["Precision", decimal(precision[k])], ["Recall", decimal(recall[k])]);
  return html("dl", { class: "facts" }, ...list.map(([term, value]) => html("div", {}, html("dt", {}, term), html("dd", {}, value))));
}

function key() {
  const signs = { "object": "annotated, found", "object missed": "annotated, missed", "right": "detection, right", "wrong": "detection, wrong", "ignored": "detection, counts neither way" };
  return html("p", { class: "key" }, ...Object.entries(signs).map(([name, text]) =>
    html("span", {}, svg("svg", { "aria-hidden": "true" }, shape(name, { path: "M2 6h24" })), text)));
}

function figure(k, example) {
  const { file_name: file, right, wrong, missed } = example;
  const counts = `${right} right, ${wrong} wrong, ${missed} missed`;
  const objects = example.objects.map((object) => ({
    ...object,
    kind: object.score === null ? "object missed" : "object",
    text: object.score === null ? "missed" : "",
  }));
  const detections = example.detections.map((detection) => ({
    ...detection,
    kind: detection.verdict,
    text: `${{ right: "", wrong: "✕ ", ignored: "? " }[detection.verdict]}${detection.score.toFixed(2)}`,
  }));
  return html("figure", { class: "example" },
    html("div", { class: "pair" },
      html("div", {}, html("small", {}, "annotated"), picture(example, objects, `${data.names[k]} annotated in ${file}`)),
      html("div", {}, html("small", {}, "detected"), picture(example, detections, `${data.names[k]} detected in ${file}: ${counts}`))),
    html("figcaption", {}, `${counts}${detectedInstead(example.objects)} · ${file}`));
}

// What covers the missed objects, if anything does.
function detectedInstead(objects) {
  const names = objects.filter(({ instead }) => instead).map(({ instead: [k, score] }) => `${data.names[k]} ${score.toFixed(2)}`);
  return names.length ? `; there instead: ${names.slice(0, 3).join(", ")}${names.length > 3 ? ", …" : ""}` : "";
}

function picture({ picture: index, width, height }, shapes, label) {
  const root = svg("svg", { class: "picture", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label, style: `--unit: ${width / 640}` });
  const source = byId(`picture-${index}`);
  if (source === null) root.append(svg("text", { class: "absent", x: 16, y: 36 }, "picture not found"));
  else root.append(svg("image", { href: source.textContent, width, height, preserveAspectRatio: "none" }));
  for (const drawn of shapes) root.append(shape(drawn.kind, drawn));
  // The highest score on top.
  for (const { box: [x, y, w, h], kind, text } of [...shapes].reverse()) {
    // Away from the nearer side of the picture. What is wrong, often a copy of what is right, below.
    const isLeft = x + w / 2 < width / 2;
    const isBelow = y < 40 || (kind === "wrong" && y + h < height - 40);
    root.append(svg("text", {
      x: isLeft ? Math.max(x, 4) : Math.min(x + w, width - 4),
      y: isBelow ? y + h : y,
      dy: isBelow ? "1em" : "-0.3em",
      "text-anchor": isLeft ? "start" : "end",
    }, text));
  }
  return root;
}

// A light line on a dark one, which can be seen on any picture.
function shape(kind, { path, box }) {
  const draw = (ink) => {
    if (path) return svg("path", { class: ink, d: path });
    const [x, y, width, height] = box;
    return svg("rect", { class: ink, x, y, width, height });
  };
  return svg("g", { class: `shape ${kind}` }, draw("halo"), draw("ink"));
}

window.addEventListener("hashchange", showCategoryOfAddress);
dialog.addEventListener("close", () => {
  openClass = null;
  // Without a jump to the top of the page.
  if (HASH.test(location.hash)) history.replaceState(null, "", "#");
});
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
byId("close").addEventListener("click", () => dialog.close());
for (const [id, step] of [["previous", -1], ["next", 1]]) {
  byId(id).addEventListener("click", () => openCategory(rowsInOrder[rowsInOrder.indexOf(openClass) + step]));
}
