"use strict";
// Everything that shows the numbers of one task, boxes or masks.

// Detections below which a share of them says little.
const FEW = 20;

function drawTrainingImages(task) {
  const { AP, trend } = data[task];
  const points = classes
    .filter((k) => AP[k] !== null && data.trainImages[k] !== null)
    .map((k) => ({ k, x: data.trainImages[k], y: AP[k] }));
  const horizontal = trainingImagesAxis(points.map(({ x }) => x));
  scatter(byId("training-images-chart"), byId("training-images-status"), {
    points,
    horizontal,
    vertical: { ...percentUpTo(points.map(({ y }) => y)), title: `AP of ${data.tasks[task]}` },
    label: `AP of ${data.tasks[task]} of every class against its training images. Arrow keys choose a class, Enter opens it.`,
    describe: ({ k, x, y }) => `${data.names[k]}: AP ${decimal(y)}, ${whole(x)} training images, ${whole(data.objects[k])} objects here`,
    background: (chart) => {
      for (const last of data.groupEnds) verticalLine(chart, last + 0.5);
      for (const [first, last, ap] of trend) {
        const x1 = Math.max(chart.x(first - 0.5) + 1, chart.left);
        const x2 = Math.min(chart.x(last + 0.5) - 1, chart.right);
        chart.root.append(svg("line", { class: "mean", x1, x2, y1: chart.y(ap), y2: chart.y(ap) }));
      }
    },
  });
}

function drawPrecisionRecall(task) {
  const { curves, thresholds } = data[task];
  for (const name of ["precision", "recall"]) {
    lineChart(byId(`${name}-chart`), {
      lines: Object.entries(curves).map(([group, curve]) => ({
        group,
        points: thresholds.map((score, i) => [score, curve[name][i] === null ? null : 100 * curve[name][i]]),
      })),
      horizontal: { ...SCORE, title: "score threshold" },
      vertical: PERCENT,
      label: `${name} of ${data.tasks[task]} by group against score threshold`,
      background: (chart) => verticalLine(chart, data.threshold, String(data.threshold)),
    });
  }
}

function drawCalibration(task) {
  const { calibration, ece } = data[task];
  lineChart(byId("calibration-chart"), {
    lines: Object.entries(calibration).map(([group, { scores, accuracies, counts }]) => ({
      group,
      points: scores.map((score, i) => [score, accuracies[i] === null ? null : 100 * accuracies[i], counts[i] < FEW]),
    })),
    horizontal: { ...SCORE, title: "score" },
    vertical: PERCENT,
    label: `share of ${data.tasks[task]} that are right, by score and group`,
    marks: true,
    background: (chart) => diagonal(chart, [1, 100]),
  });
  const rows = [...groups, "all"].map((group) =>
    html("tr", {},
      html("th", { scope: "row", class: "text" }, data.groups[group] ?? "all"),
      html("td", {}, decimal(ece[group] ?? null)),
      html("td", {}, whole(calibration[group].counts.reduce((a, b) => a + b, 0)))));
  byId("calibration-table").replaceChildren(
    html("table", { class: "numbers" },
      html("thead", {}, html("tr", {}, ...["", "ECE, %", "detections"].map((title) => html("th", { scope: "col" }, title)))),
      html("tbody", {}, ...rows)));
}

function drawConfusions(task) {
  const { pairs, classes: mixed, matrix } = data[task].confusions;
  if (!pairs.length) {
    byId("confusion-pairs").replaceChildren(html("p", {}, "No object's best detection is of another class."));
    byId("confusion-matrix").replaceChildren();
    return;
  }
  byId("confusion-pairs").replaceChildren(
    namesTable(["annotated as", "detected as", "objects", "%"], pairs.map(([a, b, count]) =>
      [nameButton(a), nameButton(b), whole(count), decimal(100 * share(count, a))])));
  const head = html("tr", {}, html("td"), ...mixed.map((k) => html("th", { scope: "col", title: data.names[k] }, html("span", {}, data.names[k]))));
  const rows = mixed.map((k, i) =>
    html("tr", {}, html("th", { scope: "row", title: data.names[k] }, data.names[k]),
      ...mixed.map((other, j) => matrixCell(k, other, matrix[i][j]))));
  byId("confusion-matrix").replaceChildren(html("table", { class: "matrix" }, html("thead", {}, head), html("tbody", {}, ...rows)));
}

const share = (count, k) => Math.min(count / Math.max(data.objects[k], 1), 1);

function matrixCell(k, other, count) {
  const title = k === other ? `${data.names[k]}: ${count} found` : `${data.names[k]} detected as ${data.names[other]}: ${count}`;
  // Up to half opaque, so that the number stays legible.
  const style = count ? `background: rgba(var(--cell), ${(0.06 + 0.5 * share(count, k)).toFixed(2)})` : null;
  return html("td", { style, title, class: k === other ? "diagonal" : null }, count ? whole(count) : "");
}

function namesTable(titles, rows) {
  const isText = (cell) => cell instanceof Node;
  const head = titles.map((title, i) => html("th", { scope: "col", class: rows.length && isText(rows[0][i]) ? "text" : null }, clamped(title)));
  return html("table", { class: "numbers list" },
    html("thead", {}, html("tr", {}, ...head)),
    html("tbody", {}, ...rows.map((row) => html("tr", {}, ...row.map((cell) => html("td", { class: isText(cell) ? "text" : null }, cell))))));
}

function drawComparison(task) {
  if (data.other === null) return;
  const { AP, otherAP } = data[task];
  const both = classes.filter((k) => AP[k] !== null && otherAP[k] !== null);
  const axis = percentUpTo(both.flatMap((k) => [AP[k], otherAP[k]]));
  scatter(byId("comparison-chart"), byId("comparison-status"), {
    points: both.map((k) => ({ k, x: otherAP[k], y: AP[k] })),
    horizontal: { ...axis, title: `AP of ${data.tasks[task]}, ${data.other}` },
    vertical: { ...axis, title: `AP of ${data.tasks[task]}, ${data.run}` },
    label: `AP of ${data.tasks[task]} of every class in both runs. Arrow keys choose a class, Enter opens it.`,
    describe: ({ k, x, y }) => `${data.names[k]}: AP ${decimal(y)}, was ${decimal(x)} (${signed(y - x)})`,
    background: (chart) => diagonal(chart, [axis.last, axis.last]),
  });
  const change = (k) => AP[k] - otherAP[k];
  const changed = both.sort((a, b) => change(b) - change(a));
  const rows = (chosen) => chosen.length === 0 ? html("p", {}, "none") : namesTable(
    ["class", "training images", data.other, data.run, "difference"],
    chosen.map((k) => [markedName(k), whole(data.trainImages[k]), decimal(otherAP[k]), decimal(AP[k]), signed(change(k))]));
  byId("gains").replaceChildren(rows(changed.filter((k) => change(k) > 0).slice(0, 8)));
  byId("losses").replaceChildren(rows(changed.filter((k) => change(k) < 0).slice(-8).reverse()));
}

function drawPage(task) {
  for (const element of document.querySelectorAll("[data-task]")) element.hidden = element.dataset.task !== task;
  drawComparison(task);
  drawTrainingImages(task);
  drawPrecisionRecall(task);
  drawTable(task);
  drawConfusions(task);
  drawCalibration(task);
}

for (const container of document.querySelectorAll("[data-legend]")) legend(container, container.dataset.legend);
for (const input of document.querySelectorAll("#task-switch input")) {
  input.addEventListener("change", () => drawPage(input.value));
}
drawPage(Object.keys(data.tasks)[0]);
showCategoryOfAddress();
