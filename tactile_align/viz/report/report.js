"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
for (const [id, figure] of Object.entries(figures)) {
  Plotly.newPlot(id, figure.traces, figure.layout, {responsive: true, displayModeBar: false});
}
for (const picker of document.querySelectorAll("[data-picker]")) {
  const control = picker.querySelector("input, select");
  const shown = picker.querySelector("output");
  const pictures = picker.parentElement.querySelectorAll("figure");
  const show = () => {
    const chosen = Number(control.value);
    pictures.forEach((picture, i) => { picture.hidden = i !== chosen; });
    if (shown) { shown.value = pictures[chosen].dataset.name; }
  };
  control.addEventListener("input", show);
  show();
}
const follow = document.getElementById("follow");
if (follow) {
  const ended = document.getElementById("ended");
  follow.checked = sessionStorage.getItem("follow") !== "no";
  follow.addEventListener("input", () => sessionStorage.setItem("follow", follow.checked ? "yes" : "no"));
  setInterval(async () => {
    if (!follow.checked) { return; }
    try {
      const answer = await fetch("version");
      ended.textContent = "";
      if (answer.ok && await answer.text() !== follow.dataset.version) { location.reload(); }
    } catch {
      ended.textContent = "tactile-align watch has stopped; this page is no longer updated.";
    }
  }, 2000);
}
