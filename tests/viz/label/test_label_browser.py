"""Boxes drawn in a real browser come back, through the CSV, as pixels of the recorded image."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tactile_align.datasets.episodes import write_episode
from tactile_align.verify.evidence import Labels
from tactile_align.verify.labels import read_labels
from tactile_align.viz.label.page import label_page
from tests.viz.browser import HOSTILE, needs_chromium, run, visit
from tests.viz.making import record

pytestmark = [pytest.mark.slow, needs_chromium]
PLATE = (199.5, 149.5, 303.5, 211.5)
"""Where every frame is magenta, as nothing else on the page: columns 200 to 303, rows 150 to 211."""
HALF = 230.0  # red + blue - 2 green: 0 outside, 460 on the plate
HELP = r"""
  const stage = document.getElementById("stage"), view = document.getElementById("view");
  const press = (id) => document.getElementById(id).click();
  const send = (kind, x, y, type) => stage.dispatchEvent(new PointerEvent(kind, {
    clientX: x, clientY: y, pointerId: 1, pointerType: type, isPrimary: true, button: 0, bubbles: true}));
  const drag = (x0, y0, x1, y1, type = "mouse") => {
    send("pointerdown", x0, y0, type);
    for (const k of [0.3, 0.7, 1]) { send("pointermove", x0 + k * (x1 - x0), y0 + k * (y1 - y0), type); }
    send("pointerup", x1, y1, type);
  };
  // Screen positions of recorded pixels, from where the picture is laid out.
  const screen = (u, v) => {
    const r = document.getElementById("picture").getBoundingClientRect();
    return [r.left + (u + 0.5) / 640 * r.width, r.top + (v + 0.5) / 480 * r.height];
  };
  const over = (u0, v0, u1, v1, type) => drag(...screen(u0, v0), ...screen(u1, v1), type);
  const key = (name, shiftKey = false) => {
    view.focus();
    view.dispatchEvent(new KeyboardEvent("keydown", {key: name, shiftKey: shiftKey, bubbles: true, cancelable: true}));
  };
  const type = (id, value) => {
    const field = document.getElementById(id);
    field.value = String(value);
    field.dispatchEvent(new Event("change"));
  };
  const said = () => document.getElementById("message").textContent;
  const csv = () => document.getElementById("csv").value;
"""


def recorded(folder: Path, name: str = "episode_0.hdf5", frames: int = 6, camera: str = "wrist") -> Path:
    """Write one episode, 640 x 480, each frame grey with a magenta plate, and return its folder."""
    folder.mkdir(exist_ok=True)
    image = np.full((480, 640, 3), 90, np.uint8)
    image[150:212, 200:304] = 250, 20, 250
    qpos = np.tile(np.linspace(0, 0.3, 7), (frames, 1))
    touches = {"tactile1": [np.full((80, 60, 3), 110, np.uint8)] * frames}
    write_episode(folder / name, qpos=qpos, action=qpos, images={camera: [image] * frames}, touches=touches)
    return folder


def boxes(found: dict[str, Any], tmp_path: Path) -> Labels:
    """Read the page's CSV as the library does."""
    file = tmp_path / "boxes.csv"
    file.write_text(found["csv"], encoding="utf-8", newline="")
    return read_labels(file)


def crossing(profile: np.ndarray) -> float:
    """Return where a profile of pixels, pixel i covering [i, i + 1], first rises through HALF."""
    i = int(np.argmax(profile > HALF))
    return i + 0.5 - (profile[i] - HALF) / (profile[i] - profile[i - 1])


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return label_page(recorded(tmp_path / "episodes"), "wrist", "tactile1", tmp_path / "label.html", count=3)


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("width", [800, 500])
def test_a_drag_over_what_the_screen_shows_gives_the_recorded_pixels(
    page: Path, tmp_path: Path, ratio: int, width: int
) -> None:
    flag = f"--force-device-scale-factor={ratio}"
    shot = tmp_path / "shot.png"
    done = run(page, tmp_path, f"--screenshot={shot}", "--virtual-time-budget=3000", flag, width=width)
    assert shot.is_file(), done.stderr[-1000:]
    blue, green, red = (channel.astype(float) for channel in cv2.split(cv2.imread(str(shot))))
    plate = red + blue - 2 * green
    rows, columns = np.nonzero(plate > HALF)
    row, column = plate[(rows.min() + rows.max()) // 2], plate[:, (columns.min() + columns.max()) // 2]
    edges = [crossing(row), crossing(column), len(row) - crossing(row[::-1]), len(column) - crossing(column[::-1])]
    where = ", ".join(str(edge / ratio) for edge in edges)
    found = visit(
        page, tmp_path, HELP + f"drag({where}); return {{csv: csv(), ratio: devicePixelRatio}};", flag, width=width
    )
    assert found["ratio"] == ratio and found["problems"] == []
    ((key, drawn),) = boxes(found, tmp_path).items()
    assert key == ("episode_0.hdf5", "wrist", "tactile1") and list(drawn) == [1]
    assert drawn[1] == pytest.approx(PLATE, abs=0.5)


@pytest.mark.parametrize("ratio", [1, 2])
def test_a_drag_keeps_its_fractions_zoomed_in_or_by_touch(page: Path, tmp_path: Path, ratio: int) -> None:
    ask = """
      over(100.25, 80.5, 300.75, 220);
      press("next");
      for (let i = 0; i < 5; i += 1) { press("closer"); }
      over(310.4, 230.6, 355.2, 262.1, "touch");
      press("next");
      over(620, 470, 700, 530);  // beyond the image
      return {csv: csv(), count: document.getElementById("count").textContent};
    """
    found = visit(page, tmp_path, HELP + ask, f"--force-device-scale-factor={ratio}")
    (drawn,) = boxes(found, tmp_path).values()
    assert drawn[1] == pytest.approx((100.25, 80.5, 300.75, 220.0), abs=0.05)
    assert drawn[3] == pytest.approx((310.4, 230.6, 355.2, 262.1), abs=0.05)
    assert drawn[5] == pytest.approx((620.0, 470.0, 639.5, 479.5), abs=0.05)
    assert found["count"] == "3 drawn, 0 not visible, 0 open"


def test_a_box_is_corrected_by_edges_corners_keys_and_numbers(page: Path, tmp_path: Path) -> None:
    ask = """
      const steps = {};
      over(100, 100, 200, 180);
      over(200, 140, 230, 150);           // the right edge alone
      over(100, 100, 90, 95);             // a corner
      steps.edges = csv();
      key("ArrowRight"); key("ArrowDown"); key("ArrowLeft", true);
      steps.arrows = csv();
      over(300, 300, 300.4, 300.2);
      steps.small = [csv(), said()];
      type("u1", 80);
      steps.wrong = [csv(), said()];
      type("u1", 260.5);
      steps.number = csv();
      key("v");
      steps.hidden = [csv(), document.getElementById("hidden").getAttribute("aria-pressed")];
      key("v");
      steps.shown = csv();
      key("Delete"); key("Enter");
      steps.middle = csv();
      key("n"); key("ArrowRight");
      return {...steps, csv: steps.number, caption: document.getElementById("caption").textContent};
    """
    found = visit(page, tmp_path, HELP + ask)

    def box(text: str) -> tuple[float, ...]:
        (only,) = boxes({"csv": text}, tmp_path).values()
        return only[1]

    assert box(found["edges"]) == pytest.approx((90, 95, 230, 180), abs=0.05)
    assert box(found["arrows"]) == pytest.approx((91, 96, 230, 181), abs=0.05)
    assert found["small"][0] == found["arrows"] and "No box" in found["small"][1]
    assert found["wrong"][0] == found["arrows"] and "Left must be less than right" in found["wrong"][1]
    assert box(found["number"]) == pytest.approx((91, 96, 260.5, 181), abs=0.05)
    assert found["hidden"] == ["episode,frame,camera,sensor,u0,v0,u1,v1\n", "true"]
    assert found["shown"] == found["number"]
    assert box(found["middle"]) == (239.5, 179.5, 399.5, 299.5)
    assert found["caption"].startswith("Frame 2 of 3: episode_0.hdf5, row 3")
    assert found["problems"] == []


def test_closing_the_page_loses_nothing(page: Path, tmp_path: Path) -> None:
    ask = """
      if (!sessionStorage.getItem("closed")) {
        over(100, 100, 200, 180);
        press("next");
        press("hidden");
        sessionStorage.setItem("closed", "yes");
        location.reload();
        return null;
      }
      // A page reloaded at once may be born in a process that has not yet heard of what was stored.
      const tries = Number(sessionStorage.getItem("tries") || 0);
      if (!localStorage.getItem(task.key) && tries < 20) {
        sessionStorage.setItem("tries", tries + 1);
        location.reload();
        return null;
      }
      return {csv: csv(), caption: document.getElementById("caption").textContent,
        count: document.getElementById("count").textContent};
    """
    found = visit(page, tmp_path, HELP + ask)
    assert found["count"] == "1 drawn, 1 not visible, 1 open" and found["caption"].startswith("Frame 3 of 3")
    (drawn,) = boxes(found, tmp_path).values()
    assert drawn[1] == pytest.approx((100, 100, 200, 180), abs=0.05)


def test_the_saved_file_is_the_csv(page: Path, tmp_path: Path) -> None:
    ask = """
      let saved = null;
      URL.createObjectURL = (blob) => { saved = blob; return "#"; };
      HTMLAnchorElement.prototype.click = function () { saved.name = this.download; };
      over(100, 100, 200, 180);
      press("save");
      return {name: saved.name, length: saved.size, type: saved.type, csv: csv()};
    """
    found = visit(page, tmp_path, HELP + ask)
    assert (found["name"], found["type"]) == ("boxes_tactile1_wrist.csv", "text/csv")
    assert found["length"] == len(found["csv"].encode()) > 60


def test_hostile_names_are_text_and_survive_the_csv(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "|") + ",\u05e9\u05dc\u05d5\u05dd" + "n" * 60 + ".hdf5"
    folder = recorded(tmp_path / "episodes", name)
    page = label_page(folder, "wrist", HOSTILE, tmp_path / "label.html", count=2)
    found = visit(page, tmp_path, HELP + "over(100, 100, 200, 180); return {csv: csv()};", width=500)
    assert found["problems"] == [] and found["title"] == f"Draw boxes: {HOSTILE} in wrist"
    assert HOSTILE in found["text"] and name in found["text"] and found["overflow"] <= 0
    assert list(boxes(found, tmp_path)) == [(name, "wrist", HOSTILE)]


@pytest.mark.parametrize("width", [1280, 500])
def test_words_have_aa_contrast_everything_has_a_name_and_nothing_scrolls_sideways(
    page: Path, tmp_path: Path, width: int
) -> None:
    ask = """
      document.querySelectorAll("details").forEach((part) => { part.open = true; });
      over(100, 100, 200, 180); press("next"); press("hidden");
      return {alt: document.getElementById("picture").alt};
    """
    found = visit(page, tmp_path, HELP + ask, width=width)
    assert found["texts"] > 25 and found["faint"] == [] and found["unnamed"] == [] and found["problems"] == []
    assert found["alt"] == "Frame 3 of episode_0.hdf5, seen by wrist" and found["language"] == "en"
    assert found["levels"] == [1] and found["overflow"] <= 0


def test_the_place_by_the_rig_is_marked_until_it_is_switched_off(tmp_path: Path) -> None:
    record(tmp_path)
    page = label_page(tmp_path, "left_wrist", "tactile1", tmp_path / "label.html", count=2)
    ask = """
      const rings = () => document.querySelectorAll("#ink ellipse").length, counts = [rings()];
      press("marker"); counts.push(rings());
      press("next"); counts.push(rings());
      key("m"); counts.push(rings());
      const touch = document.getElementById("touch");
      return {counts: counts, felt: touch.src.slice(0, 15), csv: csv()};
    """
    found = visit(page, tmp_path, HELP + ask)
    assert found["counts"] == [2, 0, 0, 2] and found["felt"] == "data:image/jpeg" and found["problems"] == []
    assert "By the rig, tactile1 is in this frame roughly inside the dashed ring" in found["text"]
    opening = re.search(r"gripper: ([\d.]+) mm between fingers \(([\d.]+) each\)", found["text"])
    assert opening and float(opening[1]) == pytest.approx(2 * float(opening[2]), abs=0.11)
    assert found["csv"] == "episode,frame,camera,sensor,u0,v0,u1,v1\n"  # a ring is no box
