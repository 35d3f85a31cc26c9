"""Page of a study: film strips of its tasks, its results as charts, and its tables."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from markdown_it import MarkdownIt
from tqdm import tqdm

from tactile_align.config.study import TRUE, GroupConfig, StudyConfig
from tactile_align.diagnostics.rollout import Filmed, play, policy_of
from tactile_align.diagnostics.study import RESULT, load_study, results
from tactile_align.diagnostics.study_tables import (
    RunResult,
    condition_names,
    curve_points,
    isotonic,
    measured,
    table_text,
)
from tactile_align.files import write_text_atomically
from tactile_align.viz.features.charts import CATEGORIES, CHANCE, figure_of, pixels_of, plain
from tactile_align.viz.film import film_strip
from tactile_align.viz.overlay.overlay import write_png
from tactile_align.viz.report.page import filled, image_data, jpeg_data

MEASURES = {
    "retrieval": "R@1 in the first view",
    "action": "mean absolute action error, robot units",
    "success": "share of correct roll-outs",
}
MARKS = "osD^v*"


def write_study_page(file: str | Path, out: str | Path | None = None, *, progress: bool = True) -> Path:
    """Write the page of a study, OUT/page.html, from its finished runs, and return its path.

    The page is one file that fetches nothing. A study of success has a film strip of each row: its first run in the
    first roll-out seed, stored as OUT/films/ROW-sSEED.png. Strips that are missing or older than the run are made.

    Args:
        file: Path of a study file, or name of a shipped study.
        out: Folder of the study. None: runs/NAME.
        progress: Show a progress bar on stderr while film strips are made.

    Raises:
        FactError, InputError: The study file is wrong, or a run with a missing film strip is not readable.
    """
    plan = load_study(file)
    folder = Path(out or f"runs/{plan.name}")
    finished, unreadable = results(folder)
    cells = [cell for row in plan.rows for cell in finished if cell.row == row]
    text = table_text(plan, cells, unreadable)
    films = [(title, *image_data(path)) for title, path in _films(plan, folder, cells, progress)]
    charts = [
        (f"Group {name}: {MEASURES[plan.measure]}", *_embedded(_results_chart(plan, group, cells)))
        for name, group in plan.compared().items()
        if any(cell.row in group.rows for cell in cells)
    ]
    charts += [(f"Curve {name}: {MEASURES['success']}", *_embedded(chart)) for name, chart in _curves(plan, cells)]
    page = filled(
        "report/study.html",
        title=f"Study {plan.name}",
        file=str(file),
        charts=charts,
        tables=MarkdownIt("commonmark", {"html": False}).enable("table").render(text),
        films=films,
    )
    write_text_atomically(folder / "page.html", page)
    return folder / "page.html"


def _embedded(rgb: np.ndarray) -> tuple[str, int, int]:
    return jpeg_data(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), widest_px=1600, quality=90)


def _films(plan: StudyConfig, folder: Path, cells: Sequence[RunResult], progress: bool) -> Iterator[tuple[str, Path]]:
    """Yield the title and the path of the film strip of each row with roll-outs; a missing strip is made first."""
    first = {cell.row: cell for cell in reversed(cells) if TRUE in cell.rolled}
    for row in tqdm([row for row in plan.rows if row in first], unit="film", disable=not progress):
        acts, name = plan.stated(row, "roll_outs"), f"{row}-s{first[row].seed}"
        run, path = folder / "runs" / name, folder / "films" / f"{name}.png"
        if not path.exists() or path.stat().st_mtime < (run / RESULT).stat().st_mtime:
            options, film = plan.condition(row, TRUE).options, list[Filmed]()
            policy, _ = policy_of(run, acts.task, options)
            play(policy, acts.task, [acts.first], options=options, film=film)
            write_png(path, film_strip({plan.title(row): film}, acts.task))
        yield f"{plan.title(row)}, training seed {first[row].seed}", path


def _results_chart(plan: StudyConfig, group: GroupConfig, cells: Sequence[RunResult]) -> np.ndarray:
    """Return the chart (H, W, 3) uint8 RGB of a group: each run with its interval, one line per row and condition.

    Conditions that shift the box are left out; they are the points of a curve.
    """
    found: dict[str, list[RunResult]] = {row: [c for c in cells if c.row == row] for row in group.rows}
    lines = []
    for row, runs in found.items():
        if plan.measure != "success":
            lines += [(plan.title(row), TRUE, runs)] if runs else []
            continue
        for name in condition_names(plan, row):
            there = [cell for cell in runs if name in cell.rolled]
            if there and not plan.condition(row, name).options.box_offset_px:
                lines.append((plan.title(row) if name == TRUE else f"{plan.title(row)}, {name}", name, there))
    seeds = sorted({cell.seed for _, _, runs in lines for cell in runs})
    figure = figure_of(10, 1.1 + 0.16 * len(lines) * (1 + len(seeds)))
    axes = figure.subplots()
    for number, (_, name, runs) in enumerate(lines):
        for cell in runs:
            at = seeds.index(cell.seed)
            value, interval = measured(cell, name)
            y = number + (at - (len(seeds) - 1) / 2) * 0.6 / len(seeds)
            colour = CATEGORIES[at % len(CATEGORIES)]
            if interval is not None:
                axes.plot(interval, (y, y), color=colour, linewidth=2)
            label = f"training seed {cell.seed}"
            labelled = label in axes.get_legend_handles_labels()[1]
            mark = MARKS[at % len(MARKS)]
            axes.plot(value, y, mark, color=colour, markeredgecolor="black", label="_" if labelled else label)
    axes.set_yticks(range(len(lines)), [plain(title) for title, _, _ in lines])
    axes.invert_yaxis()
    axes.set(xlabel=f"{MEASURES[plan.measure]}, 95 % intervals")
    if plan.measure == "success":
        axes.set_xlim(-0.02, 1.02)
    chance = next((c.recall.chance[1] for _, _, runs in lines for c in runs if c.recall), None)
    if plan.measure == "retrieval" and chance is not None:
        axes.axvline(chance, color=CHANCE, linestyle=":", label="chance")
    axes.grid(axis="x", color="#e5e5e5")
    figure.legend(loc="outside lower center", ncols=6, frameon=False)
    return pixels_of(figure)


def _curves(plan: StudyConfig, cells: Sequence[RunResult]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the chart (H, W, 3) uint8 RGB of each curve: shares, isotonic fit and its band."""
    for name, curve in plan.curves.items():
        lines = curve_points(plan, curve, cells)
        if not lines:
            continue
        figure = figure_of(8, 4)
        axes = figure.subplots()
        for number, (title, points) in enumerate(lines.items()):
            colour, x = CATEGORIES[number % len(CATEGORIES)], [place for place, _ in points]
            fit, band = isotonic([runs for _, runs in points], curve.over == "demonstrations")
            low, high = np.array(band).T
            axes.fill_between(x, low, high, where=low <= high, color=colour, alpha=0.2)
            axes.plot(x, fit, color=colour)
            shares = [np.mean([p.correct for run in runs for p in run]) for _, runs in points]
            axes.plot(x, shares, MARKS[number % len(MARKS)], color=colour, markeredgecolor="black", label=plain(title))
        unit = "px of the camera's raw frames" if curve.over == "box_offset_px" else "episodes"
        axes.set(xlabel=f"{curve.over.replace('_px', '').replace('_', ' ')}, {unit}", ylabel=MEASURES["success"])
        axes.set_ylim(-0.02, 1.02)
        axes.grid(color="#e5e5e5")
        axes.legend(frameon=False)
        yield name, pixels_of(figure)
