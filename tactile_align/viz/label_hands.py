"""What pointer, fields and keys do on the label page; it goes on from `label_view`."""

HANDS = r"""
// Which edges of the box are under the pointer: [left or right, top or bottom], each an index into the box or -1.
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
    said.textContent = "That was no box: drag from one corner of the sensor to the other.";
    draw();
    return;
  }
  said.textContent = "";
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
  if (good) { said.textContent = ""; set(box, false); } else if (box.every(Number.isFinite)) {
    said.textContent = "Needed: left below right, top below bottom, all within -0.5 .. " + right + " and -0.5 .. " +
      bottom + ".";
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
  const f = told.frames[shown], [u, v] = [(f.width - 1) / 2, (f.height - 1) / 2];
  if (!marks[shown].box) { set([u - f.width / 8, v - f.height / 8, u + f.width / 8, v + f.height / 8], false); }
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  link.download = "boxes_" + (told.sensor + "_" + told.camera).replace(/[^A-Za-z0-9_.-]+/g, "_").slice(0, 80) + ".csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  said.textContent = "Saved as " + link.download + ".";
}

const acts = {
  previous: () => show(shown - 1), next: () => show(shown + 1), closer: () => magnify(1), further: () => magnify(-1),
  whole: () => magnify(0), hidden: () => set(marks[shown].box, !marks[shown].hidden), clear: () => set(null, false),
  middle: middle, save: save,
};
for (const [name, act] of Object.entries(acts)) { at(name).addEventListener("click", act); }
const keys = {
  n: "next", PageDown: "next", p: "previous", PageUp: "previous", v: "hidden", Delete: "clear", Backspace: "clear",
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

told.frames.forEach((_, i) => {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.addEventListener("click", () => show(i));
  item.append(button);
  at("frames").append(item);
});
window.addEventListener("resize", () => size());
const open = marks.findIndex((one) => state(one) === "open");
show(Math.max(open, 0));
"""
