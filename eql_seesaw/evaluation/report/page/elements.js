"use strict";
// Elements of the page. Text only ever becomes text: names of classes are not trusted.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function html(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

const byId = (id) => document.getElementById(id);
const decimal = (value) => (value === null ? "n/a" : value.toFixed(1));
const whole = (value) => (value === null ? "n/a" : value.toLocaleString("en"));
const sign = (value) => (Math.abs(value).toFixed(1) === "0.0" ? "" : value < 0 ? "−" : "+");
const signed = (value) => (value === null ? "n/a" : sign(value) + Math.abs(value).toFixed(1));
const difference = (a, b) => (a === null || b === null ? null : a - b);

const data = JSON.parse(byId("data").textContent);
const groups = Object.keys(data.groups);
const classes = data.ids.map((_, k) => k);

// A heading that may be a long name of a run: three lines of it, and all of it when pointed at.
const clamped = (text) => html("span", { class: "clamped", title: text }, ...breakable(text));

// Text that may break after underscores and slashes.
const breakable = (text) => text.split(/(?<=[_/])/).flatMap((part, i) => (i ? [html("wbr"), part] : [part]));

// A button with a class's name, which opens it.
function nameButton(k) {
  const name = data.names[k];
  return html("button", { type: "button", class: "name", title: name, click: () => openCategory(k) }, ...breakable(name));
}
