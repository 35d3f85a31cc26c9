"use strict";
const task = JSON.parse(document.getElementById("task").textContent);
const at = (id) => document.getElementById(id);
const [view, stage, picture, ink, message] = ["view", "stage", "picture", "ink", "message"].map(at);
const edges = ["u0", "v0", "u1", "v1"].map(at);
const MIN_PX = 2, GRAB = {mouse: 8, pen: 12, touch: 24}, STEPS = [1, 1.5, 2, 3, 4, 6, 8, 12];
let shown = 0, zoom = 0, drag = null, marked = true, marks = task.frames.map(() => ({box: null, hidden: false}));

try {
  const kept = JSON.parse(localStorage.getItem(task.key) || "null");
  if (Array.isArray(kept) && kept.length === marks.length) { marks = kept; }
} catch (error) {
  at("kept").textContent = "This browser cannot store boxes for a page opened from disk: save the CSV before you close the page.";
}

function keep() {
  try { localStorage.setItem(task.key, JSON.stringify(marks)); } catch (error) {
    at("kept").textContent = "This browser cannot store the boxes (" + error.name + "): save the CSV before you close the page.";
  }
}

// (0, 0) is the CENTRE of the first pixel, so the image extends from -0.5 to width - 0.5.
const limits = () => { const f = task.frames[shown]; return [f.width - 0.5, f.height - 0.5]; };
const within = (value, axis) => Math.min(Math.max(value, -0.5), limits()[axis]);
const state = (mark) => mark.hidden ? "not visible" : mark.box ? "drawn" : "open";
const usable = (b) => b.every(Number.isFinite) && b[2] - b[0] >= MIN_PX && b[3] - b[1] >= MIN_PX;

function quoted(text) { return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text; }

function csv() {
  const rows = ["episode,frame,camera,sensor,u0,v0,u1,v1"];
  task.frames.forEach((frame, i) => {
    if (state(marks[i]) !== "drawn") { return; }
    const box = marks[i].box.map((edge) => edge.toFixed(2));
    rows.push([quoted(frame.episode), frame.frame, quoted(task.camera), quoted(task.sensor), ...box].join(","));
  });
  return rows.join("\n") + "\n";
}

function pixel(event) {
  const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(ink.getScreenCTM().inverse());
  return [p.x, p.y];
}

function draw() {
  const mark = marks[shown], box = mark.hidden ? null : mark.box, place = task.frames[shown].place;
  ink.replaceChildren();
  if (place && marked) {
    // A ring around the place, not the box itself: the box must be drawn by what the frame shows.
    const [rx, ry] = [0.75 * (place[2] - place[0]), 0.75 * (place[3] - place[1])], least = 14 / scale();
    for (const name of ["dark", "place"]) {
      add("ellipse", name, {cx: (place[0] + place[2]) / 2, cy: (place[1] + place[3]) / 2,
        rx: Math.max(rx, least), ry: Math.max(ry, least)});
    }
  }
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

const scale = () => stage.getBoundingClientRect().width / task.frames[shown].width;

// Browsers align pictures with whole screen pixels, but not SVG drawings: aligning the stage aligns both.
const whole = (x) => Math.round(x * devicePixelRatio) / devicePixelRatio;
function settle() {
  stage.style.left = stage.style.top = "0";
  const loose = stage.getBoundingClientRect();
  stage.style.left = whole(loose.left) - loose.left + "px";
  stage.style.top = whole(loose.top) - loose.top + "px";
}

const middleOf = (r) => [r.left + r.width / 2, r.top + r.height / 2];
function size(centre) {
  const f = task.frames[shown], before = stage.getBoundingClientRect(), box = view.getBoundingClientRect();
  const mark = marks[shown].box && !marks[shown].hidden ? ink.querySelector("rect") : null, spot = mark || view;
  const held = centre || middleOf(spot.getBoundingClientRect());
  const share = [(held[0] - before.left) / (before.width || 1), (held[1] - before.top) / (before.height || 1)];
  // One pixel is left for `settle`. clientWidth is not used, because it shrinks when scroll bars appear.
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

// Which sensor is meant: its finger if there are several sensors, its place, and where it moves, all by the rig.
function which(f) {
  if (!(task.sensor in task.mounts)) { return "No rig was given, so the page does not know where " + task.sensor + " is."; }
  const others = Object.entries(task.mounts).filter(([name]) => name !== task.sensor);
  const not = others.map(([name, parent]) => name + " on " + parent).join(", ");
  const on = not ? "on " + task.mounts[task.sensor] + " (not: " + not + "), in this frame " : "in this frame ";
  return "By the rig, " + task.sensor + " is " + on +
    (f.place ? "roughly inside the dashed ring" : "outside the image or unknown") +
    (f.moves ? ", and moves " + f.moves + " as the gripper opens" : "") + ". The rig may be wrong: draw what you see.";
}

function show(i) {
  shown = Math.min(Math.max(i, 0), marks.length - 1);
  const f = task.frames[shown];
  ink.setAttribute("viewBox", "-0.5 -0.5 " + f.width + " " + f.height);
  picture.src = f.source;
  picture.alt = "Frame " + f.frame + " of " + f.episode + ", seen by " + task.camera;
  at("caption").textContent = "Frame " + (shown + 1) + " of " + marks.length + ": " + f.episode + ", row " + f.frame +
    (f.opening === null ? "" : ", gripper: " + (2e3 * f.opening).toFixed(1) + " mm between fingers (" +
    (1e3 * f.opening).toFixed(1) + " each)");
  at("which").textContent = which(f);
  at("felt").hidden = f.touch === null;
  at("touch").src = f.touch || "";
  at("touch").alt = "Touch image of " + task.sensor + " in this frame";
  at("marker").disabled = !f.place;
  at("previous").disabled = shown === 0;
  at("next").disabled = shown === marks.length - 1;
  message.textContent = "";
  magnify(0);
}

function set(box, hidden) {
  marks[shown] = {box: box, hidden: hidden};
  keep();
  draw();
}

// Return the box edges under the pointer as [left or right, top or bottom], each an index into the box or -1.
function grabbed(event) {
  const mark = marks[shown];
  if (!mark.box || mark.hidden) { return null; }
  const [u, v] = pixel(event), near = (GRAB[event.pointerType] || GRAB.mouse) / scale(), b = mark.box;
  if (u < b[0] - near || u > b[2] + near || v < b[1] - near || v > b[3] + near) { return null; }
  const pick = (value, low, high) => {
    const [a, c] = [Math.abs(value - b[low]), Math.abs(value - b[high])];
    return Math.min(a, c) > near ? -1 : a < c ? low : high;
  };
  const found = [pick(u, 0, 2), pick(v, 1, 3)];
  return found[0] < 0 && found[1] < 0 ? null : found;
}

stage.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.isPrimary) { return; }
  event.preventDefault();
  view.focus({preventScroll: true});
  const [u, v] = pixel(event).map(within), held = grabbed(event), old = marks[shown];
  drag = {old: old, held: held, from: [u, v], id: event.pointerId};
});
stage.addEventListener("pointermove", (event) => {
  if (drag) { return; }
  const held = grabbed(event);
  stage.style.cursor = !held ? "crosshair" : held[0] < 0 ? "ns-resize" : held[1] < 0 ? "ew-resize" : "move";
});
window.addEventListener("pointermove", (event) => {
  if (!drag || event.pointerId !== drag.id) { return; }
  const p = pixel(event).map(within);
  let box;
  if (drag.held) {
    box = [...drag.old.box];
    drag.held.forEach((edge, axis) => { if (edge >= 0) { box[edge] = p[axis]; } });
  } else { box = [...drag.from, ...p]; }
  box = [Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.max(box[0], box[2]), Math.max(box[1], box[3])];
  marks[shown] = {box: box, hidden: false};
  draw();
});
function release(event, good) {
  if (!drag || event.pointerId !== drag.id) { return; }
  const made = marks[shown], old = drag.old;
  drag = null;
  if (made === old) { return; }
  if (!good || !usable(made.box)) {
    marks[shown] = old;
    message.textContent = "No box was drawn: drag from one corner of the sensor to the opposite corner.";
    draw();
    return;
  }
  message.textContent = "";
  set(made.box, false);
}
window.addEventListener("pointerup", (event) => release(event, true));
window.addEventListener("pointercancel", (event) => release(event, false));
view.addEventListener("wheel", (event) => {
  if (!event.ctrlKey) { return; }
  event.preventDefault();
  magnify(event.deltaY < 0 ? 1 : -1, [event.clientX, event.clientY]);
}, {passive: false});

edges.forEach((field, i) => field.addEventListener("change", () => {
  const box = edges.map((one) => one.value === "" ? NaN : Number(one.value));
  const [right, bottom] = limits();
  const good = usable(box) && box[0] >= -0.5 && box[1] >= -0.5 && box[2] <= right && box[3] <= bottom;
  if (good) { message.textContent = ""; set(box, false); } else if (box.every(Number.isFinite)) {
    message.textContent = "Left must be less than right, top less than bottom, columns within -0.5 to " + right +
      ", rows within -0.5 to " + bottom + ".";
  }
}));

function nudge(du, dv, sized) {
  const mark = marks[shown], [right, bottom] = limits();
  if (!mark.box || mark.hidden) { return; }
  let [u0, v0, u1, v1] = mark.box;
  if (sized) { u1 = within(u1 + du, 0); v1 = within(v1 + dv, 1); } else {
    du = Math.min(Math.max(du, -0.5 - u0), right - u1);
    dv = Math.min(Math.max(dv, -0.5 - v0), bottom - v1);
    [u0, v0, u1, v1] = [u0 + du, v0 + dv, u1 + du, v1 + dv];
  }
  if (usable([u0, v0, u1, v1])) { set([u0, v0, u1, v1], false); }
}

function middle() {
  const f = task.frames[shown], [u, v] = [(f.width - 1) / 2, (f.height - 1) / 2];
  if (!marks[shown].box) { set([u - f.width / 8, v - f.height / 8, u + f.width / 8, v + f.height / 8], false); }
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  link.download = "boxes_" + (task.sensor + "_" + task.camera).replace(/[^A-Za-z0-9_.-]+/g, "_").slice(0, 80) + ".csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  message.textContent = "Saved as " + link.download + ".";
}

const acts = {
  previous: () => show(shown - 1), next: () => show(shown + 1), closer: () => magnify(1), further: () => magnify(-1),
  whole: () => magnify(0), hidden: () => set(marks[shown].box, !marks[shown].hidden), clear: () => set(null, false),
  middle: middle, save: save, marker: () => {
    marked = !marked;
    at("marker").setAttribute("aria-pressed", String(marked));
    draw();
  },
};
for (const [name, act] of Object.entries(acts)) { at(name).addEventListener("click", act); }
const keys = {
  m: "marker", n: "next", PageDown: "next", p: "previous", PageUp: "previous", v: "hidden", Delete: "clear", Backspace: "clear",
  "+": "closer", "=": "closer", "-": "further", 0: "whole", Enter: "middle",
};
const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
view.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) { return; }
  if (event.key in arrows) { nudge(...arrows[event.key], event.shiftKey); } else if (event.key in keys) {
    if (!at(keys[event.key]).disabled) { acts[keys[event.key]](); }
  } else { return; }
  event.preventDefault();
});

task.frames.forEach((_, i) => {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.addEventListener("click", () => show(i));
  item.append(button);
  at("frames").append(item);
});
window.addEventListener("resize", () => size());
const open = marks.findIndex((one) => state(one) === "open");
show(Math.max(open, 0));
