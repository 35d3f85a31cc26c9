"""What the label page shows and keeps; boxes are in pixels of the recorded image, never of the screen."""

VIEW = r"""
"use strict";
const told = JSON.parse(document.getElementById("told").textContent);
const at = (id) => document.getElementById(id);
const [view, stage, picture, ink, said] = ["view", "stage", "picture", "ink", "said"].map(at);
const edges = ["u0", "v0", "u1", "v1"].map(at);
const MIN_PX = 2, GRAB = {mouse: 8, pen: 12, touch: 24}, STEPS = [1, 1.5, 2, 3, 4, 6, 8, 12];
let shown = 0, zoom = 0, drag = null, marks = told.frames.map(() => ({box: null, hidden: false}));

try {
  const kept = JSON.parse(localStorage.getItem(told.key) || "null");
  if (Array.isArray(kept) && kept.length === marks.length) { marks = kept; }
} catch (error) {
  at("kept").textContent = "This browser keeps nothing for pages from disk: save the CSV before you close it.";
}

function keep() {
  try { localStorage.setItem(told.key, JSON.stringify(marks)); } catch (error) {
    at("kept").textContent = "This browser keeps nothing (" + error.name + "): save the CSV before you close it.";
  }
}

// Pixel (0, 0) is the CENTRE of the first pixel, so the image reaches from -0.5 to width - 0.5.
const limits = () => { const f = told.frames[shown]; return [f.width - 0.5, f.height - 0.5]; };
const within = (value, axis) => Math.min(Math.max(value, -0.5), limits()[axis]);
const state = (mark) => mark.hidden ? "not visible" : mark.box ? "drawn" : "open";
const usable = (b) => b.every(Number.isFinite) && b[2] - b[0] >= MIN_PX && b[3] - b[1] >= MIN_PX;

function quoted(text) { return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text; }

function csv() {
  const rows = ["episode,frame,camera,sensor,u0,v0,u1,v1"];
  told.frames.forEach((frame, i) => {
    if (state(marks[i]) !== "drawn") { return; }
    const box = marks[i].box.map((edge) => edge.toFixed(2));
    rows.push([quoted(frame.episode), frame.frame, quoted(told.camera), quoted(told.sensor), ...box].join(","));
  });
  return rows.join("\n") + "\n";
}

function pixel(event) {
  const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(ink.getScreenCTM().inverse());
  return [p.x, p.y];
}

function draw() {
  const mark = marks[shown], box = mark.hidden ? null : mark.box;
  ink.replaceChildren();
  if (box) {
    const [u0, v0, u1, v1] = box;
    for (const name of ["halo", "line"]) { add("rect", name, {x: u0, y: v0, width: u1 - u0, height: v1 - v0}); }
    const r = 5 / scale();
    for (const u of [u0, u1]) { for (const v of [v0, v1]) {
      add("rect", "grip", {x: u - r, y: v - r, width: 2 * r, height: 2 * r});
    } }
  }
  edges.forEach((field, i) => {
    if (field !== document.activeElement) { field.value = box ? String(Math.round(100 * box[i]) / 100) : ""; }
    field.disabled = mark.hidden;
  });
  at("hidden").setAttribute("aria-pressed", String(mark.hidden));
  [...at("frames").querySelectorAll("button")].forEach((button, i) => {
    button.textContent = (i + 1) + {drawn: " \u2713", open: "", "not visible": " \u2013"}[state(marks[i])];
    button.setAttribute("aria-label", "Frame " + (i + 1) + " of " + marks.length + ", " + state(marks[i]));
    button.setAttribute("aria-current", String(i === shown));
  });
  const count = (name) => marks.filter((one) => state(one) === name).length;
  at("count").textContent = count("drawn") + " drawn, " + count("not visible") + " not visible, " + count("open") +
    " open";
  at("save").disabled = count("drawn") === 0;
  at("csv").value = csv();
  settle();
}

function add(tag, name, attributes) {
  const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
  shape.setAttribute("class", name);
  for (const [key, value] of Object.entries(attributes)) { shape.setAttribute(key, value); }
  ink.append(shape);
}

const scale = () => stage.getBoundingClientRect().width / told.frames[shown].width;

// Browsers put a picture, but not a drawing, on whole pixels of the screen: the stage goes there for both.
const whole = (x) => Math.round(x * devicePixelRatio) / devicePixelRatio;
function settle() {
  stage.style.left = stage.style.top = "0";
  const loose = stage.getBoundingClientRect();
  stage.style.left = whole(loose.left) - loose.left + "px";
  stage.style.top = whole(loose.top) - loose.top + "px";
}

const middleOf = (r) => [r.left + r.width / 2, r.top + r.height / 2];
function size(centre) {
  const f = told.frames[shown], before = stage.getBoundingClientRect(), box = view.getBoundingClientRect();
  const mark = marks[shown].box && !marks[shown].hidden ? ink.querySelector("rect") : null, spot = mark || view;
  const held = centre || middleOf(spot.getBoundingClientRect());
  const share = [(held[0] - before.left) / (before.width || 1), (held[1] - before.top) / (before.height || 1)];
  // Less one pixel, which `settle` may need; clientWidth would shrink with the scroll bars of a closer look.
  const fit = Math.min((box.width - 1) / f.width, (0.72 * window.innerHeight - 1) / f.height);
  const k = fit * STEPS[zoom];
  stage.style.width = whole(f.width * k) + "px";
  stage.style.height = whole(f.height * k) + "px";
  picture.style.imageRendering = k >= 2 ? "pixelated" : "auto";
  const after = stage.getBoundingClientRect(), to = centre || middleOf(box);
  view.scrollLeft += after.left + share[0] * after.width - to[0];
  view.scrollTop += after.top + share[1] * after.height - to[1];
  at("zoom").value = STEPS[zoom] + " x";
  draw();
}

function magnify(by, centre) {
  zoom = by === 0 ? 0 : Math.min(Math.max(zoom + by, 0), STEPS.length - 1);
  size(centre);
}

function show(i) {
  shown = Math.min(Math.max(i, 0), marks.length - 1);
  const f = told.frames[shown];
  ink.setAttribute("viewBox", "-0.5 -0.5 " + f.width + " " + f.height);
  picture.src = f.source;
  picture.alt = "Frame " + f.frame + " of " + f.episode + ", seen by " + told.camera;
  at("caption").textContent = "Frame " + (shown + 1) + " of " + marks.length + ": " + f.episode + ", row " + f.frame +
    (f.opening === null ? "" : ", finger " + (1e3 * f.opening).toFixed(1) + " mm out");
  at("previous").disabled = shown === 0;
  at("next").disabled = shown === marks.length - 1;
  said.textContent = "";
  magnify(0);
}

function set(box, hidden) {
  marks[shown] = {box: box, hidden: hidden};
  keep();
  draw();
}
"""
