"use strict";
// Charts in SVG, drawn anew when their width changes, so that their letters stay legible.

const MARGIN = { top: 10, right: 12, bottom: 38, left: 44 };
const LETTER = 6.6; // width of most letters
const SHAPES = {
  r: (x, y, s) => `M${x} ${y - s * 1.15}l${s * 1.1} ${s * 1.9}h${-2.2 * s}z`,
  c: (x, y, s) => `M${x - s * 0.9} ${y - s * 0.9}h${s * 1.8}v${s * 1.8}h${-1.8 * s}z`,
  f: (x, y, s) => `M${x - s} ${y}a${s} ${s} 0 1 0 ${2 * s} 0a${s} ${s} 0 1 0 ${-2 * s} 0z`,
  all: (x, y, s) => `M${x} ${y - s * 1.2}l${s * 1.2} ${s * 1.2}l${-s * 1.2} ${s * 1.2}l${-s * 1.2} ${-s * 1.2}z`,
};

const drawings = new Map();
const resizing = new ResizeObserver((entries) => {
  for (const { target } of entries) drawings.get(target)();
});

// Calls draw(width, height), which returns an SVG element, now and whenever the width changes.
function drawInto(container, draw) {
  const isNew = !drawings.has(container);
  drawings.set(container, () => {
    const focused = container.contains(document.activeElement);
    const drawing = draw(container.clientWidth, container.clientHeight);
    container.replaceChildren(drawing);
    if (focused) drawing.focus();
  });
  if (isNew) resizing.observe(container);
  else drawings.get(container)();
}

const PERCENT = { first: 0, last: 100, ticks: [0, 20, 40, 60, 80, 100] };

// Percent, as far as the values go.
function percentUpTo(values) {
  const last = Math.max(10, Math.ceil(Math.max(0, ...values) / 10) * 10);
  const step = last > 50 ? 20 : last > 20 ? 10 : 5;
  const ticks = [];
  for (let tick = 0; tick <= last; tick += step) ticks.push(tick);
  return { first: 0, last, ticks };
}

const SCORE = { first: 0, last: 1, ticks: [0, 0.2, 0.4, 0.6, 0.8, 1] };

// Axes with their grid; axis.toPosition, if given, is for example a logarithm.
function axes(width, height, horizontal, vertical, label) {
  const right = width - MARGIN.right;
  const bottom = height - MARGIN.bottom;
  const scale = ({ first, last, toPosition = (v) => v }, from, to) => {
    const start = toPosition(first);
    const factor = (to - from) / (toPosition(last) - start);
    return (value) => from + (toPosition(value) - start) * factor;
  };
  const x = scale(horizontal, MARGIN.left, right);
  const y = scale(vertical, bottom, MARGIN.top);
  const root = svg("svg", { role: "img", "aria-label": label });
  for (const tick of vertical.ticks) {
    root.append(
      svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(tick)),
    );
  }
  for (const tick of horizontal.ticks) {
    root.append(
      svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 4 }),
      svg("text", { x: x(tick), y: bottom + 17, "text-anchor": "middle" }, whole(tick)),
    );
  }
  const middle = (MARGIN.left + right) / 2;
  root.append(svg("text", { x: middle, y: height - 4, "text-anchor": "middle" }, ...cut(horizontal.title, right - MARGIN.left)));
  if (vertical.title) {
    const turned = `rotate(-90 12 ${(MARGIN.top + bottom) / 2})`;
    root.append(svg("text", { x: 12, y: (MARGIN.top + bottom) / 2, "text-anchor": "middle", transform: turned }, ...cut(vertical.title, bottom - MARGIN.top - 24)));
  }
  return { root, x, y, top: MARGIN.top, bottom, left: MARGIN.left, right };
}

// A title as far as there is room for it, and all of it when pointed at: SVG's text has no ellipsis.
function cut(title, width) {
  const most = Math.floor(width / LETTER);
  return title.length <= most ? [title] : [`${title.slice(0, most - 1)}…`, svg("title", {}, title)];
}

// Training images on a logarithmic axis, which has a place for none.
function trainingImagesAxis(counts) {
  const last = Math.max(100, ...counts) * 1.15;
  const hasNone = counts.includes(0);
  const ticks = [1, 10, 100, 1000, 10000, 100000, 1000000].filter((tick) => tick <= last);
  return {
    first: hasNone ? 0 : 0.8,
    last,
    toPosition: (n) => Math.log10(Math.max(n, 0.4)),
    ticks: hasNone ? [0, ...ticks] : ticks,
    title: "training images",
  };
}

// One mark for each class. `points` are {k, x, y}; `background` draws what lies behind them.
function scatter(container, status, { points, horizontal, vertical, label, describe, background }) {
  points = [...points].sort((a, b) => a.x - b.x || a.y - b.y);
  let chosen = -1;
  drawInto(container, (width, height) => {
    const chart = axes(width, height, horizontal, vertical, label);
    const size = points.length > 300 ? 3.4 : 4.4;
    background(chart);
    const place = ({ k, x, y }, s) => SHAPES[data.group[k]](chart.x(x), chart.y(y), s);
    for (const point of points) {
      chart.root.append(svg("path", { class: `point group-${data.group[point.k]}`, d: place(point, size) }));
    }
    const ring = svg("path", { class: "chosen", d: "" });
    chart.root.append(ring);
    const choose = (i) => {
      chosen = i;
      ring.setAttribute("d", i < 0 ? "" : place(points[i], size + 2.5));
      if (i < 0) return;
      const { k } = points[i];
      const open = html("button", { type: "button", "aria-label": `Open ${data.names[k]}`, click: () => openCategory(k) }, "Open");
      status.replaceChildren(open, html("span", {}, describe(points[i])));
    };
    const nearest = (event) => {
      const box = chart.root.getBoundingClientRect();
      const [px, py] = [event.clientX - box.left, event.clientY - box.top];
      let best = -1;
      let least = 24 ** 2;
      points.forEach(({ x, y }, i) => {
        const distance = (chart.x(x) - px) ** 2 + (chart.y(y) - py) ** 2;
        if (distance < least) [best, least] = [i, distance];
      });
      return best;
    };
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity };
    fill(chart.root, {
      tabindex: points.length ? 0 : null,
      role: "application",
      focus: () => { if (chosen < 0 && points.length) choose(0); },
      pointermove: (event) => { const i = nearest(event); if (i >= 0 && i !== chosen) choose(i); },
      // A finger first chooses; the button below then opens.
      click: (event) => {
        const i = nearest(event);
        if (i < 0) return;
        choose(i);
        if (event.pointerType !== "touch") openCategory(points[i].k);
      },
      keydown: (event) => {
        if (event.key === "Enter" && chosen >= 0) openCategory(points[chosen].k);
        else if (event.key in steps) choose(Math.min(Math.max(chosen + steps[event.key], 0), points.length - 1));
        else return;
        event.preventDefault();
      },
    }, []);
    choose(chosen);
    return chart.root;
  });
  status.textContent = points.length ? "Point at a mark, or go through them with arrow keys; Enter opens a class." : "No class to show.";
}

// Lines of groups; `lines` are {group, points: [[x, y or null, is it of few?], ...]}.
function lineChart(container, { lines, horizontal, vertical, label, marks = false, background }) {
  drawInto(container, (width, height) => {
    const chart = axes(width, height, horizontal, vertical, label);
    background(chart);
    for (const { group, points } of lines) {
      const known = points.filter(([, y]) => y !== null);
      const d = known.map(([x, y], i) => `${i ? "L" : "M"}${chart.x(x).toFixed(1)} ${chart.y(y).toFixed(1)}`);
      chart.root.append(svg("path", { class: `line group-${group}`, d: d.join("") }));
      if (marks) {
        for (const [x, y, isFew] of known) {
          chart.root.append(svg("path", { class: `point ${isFew ? "few" : "full"} group-${group}`, d: SHAPES[group](chart.x(x), chart.y(y), 4) }));
        }
      }
    }
    return chart.root;
  });
}

function verticalLine(chart, value, label) {
  const x = chart.x(value);
  if (x < chart.left || x > chart.right) return;
  chart.root.append(svg("line", { class: "boundary", x1: x, x2: x, y1: chart.top, y2: chart.bottom }));
  if (label) chart.root.append(svg("text", { x: x + 4, y: chart.top + 10 }, label));
}

function diagonal(chart, last) {
  chart.root.append(svg("line", { class: "diagonal", x1: chart.x(0), y1: chart.y(0), x2: chart.x(last[0]), y2: chart.y(last[1]) }));
}

const groupMark = (group) => svg("path", { class: `point full group-${group}`, d: SHAPES[group](6, 6, 4.5) });

// A class's name behind the mark of its group.
function markedName(k) {
  const name = data.groups[data.group[k]];
  const mark = svg("svg", { width: 12, height: 12, role: "img", "aria-label": name }, svg("title", {}, name), groupMark(data.group[k]));
  return html("div", { class: "marked" }, mark, nameButton(k));
}

function legend(container, kind) {
  const shown = groups.filter((group) => data.group.includes(group));
  container.replaceChildren(
    ...(kind === "lines" ? [...shown, "all"] : shown).map((group) => {
      const line = () => svg("path", { class: `line group-${group}`, d: "M0 6h30" });
      const sign = kind === "lines"
        ? svg("svg", { width: 30, height: 12, "aria-hidden": "true" }, line())
        : svg("svg", { width: 12, height: 12, "aria-hidden": "true" }, groupMark(group));
      return html("span", {}, sign, data.groups[group] ?? "all");
    }),
  );
}
