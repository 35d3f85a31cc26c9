"""Curves of a run: the loss beside its chance line, and recall beside chance and the opening-only baseline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREY, GREEN = "#0072B2", "#D55E00", "#777777", "#009E73"


def draw_curves(metrics: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the course of a run from the records of metrics.jsonl.

    Left the alignment loss in training and validation with the chance line, right the action error.

    Args:
        metrics: Records as `training.metrics.read_metrics` returns them.
        path: PNG to write.
        title: Stands above; says SCRATCH where the encoder is.
    """
    figure, axes = _figure(10, 4, 2)
    train = [r for r in metrics if r["kind"] == "train"]
    held_out = [r for r in metrics if r["kind"] == "validation"]
    for axis, key, label in ((axes[0], "hsa", "HSA loss"), (axes[1], "l1", "action L1, normalised")):
        for records, colour, name in ((train, BLUE, "training"), (held_out, ORANGE, "held-out episodes")):
            points = [(r["step"], r[key]) for r in records if key in r]
            if points:
                axis.plot(
                    *zip(*points, strict=True), color=colour, label=name, marker="o" if len(points) < 15 else None
                )
        axis.set_xlabel("step")
        axis.set_ylabel(label)
    chance = [(r["step"], r[name]) for r in train for name in r if name.startswith("chance/")]
    if chance:
        axes[0].plot(*zip(*chance, strict=True), color=GREY, linestyle="--", label="chance, ln(1 + rivals)")
    for axis in axes:
        tops = [y for line in axis.lines for y in line.get_ydata()]
        axis.set_ylim(0, 1.06 * max(tops, default=1.0))  # matplotlib's own margin, 5 % of the spread, cuts markers
        if axis.lines:
            axis.legend(frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def draw_recall(view: dict[str, Any], path: Path, title: str) -> None:
    """Draw R@1, R@5 and R@10 of the box, of the opening alone and of chance, with 95 % intervals.

    Args:
        view: One entry of summary.json's "views".
        path: PNG to write.
        title: Stands above.
    """
    figure, (axis,) = _figure(7, 4, 1)
    box = view["retrieval"]["both"]
    groups = [("box", box, BLUE)]
    if "opening_only" in view:
        groups.append(("gripper opening only", view["opening_only"]["retrieval"]["both"], ORANGE))
    width = 0.8 / (len(groups) + 1)
    ks = sorted(int(k) for k in box["at"])
    for number, (name, recall, colour) in enumerate(groups):
        at = {int(k): v for k, v in recall["at"].items()}
        interval = {int(k): v for k, v in recall["interval"].items()}
        error = [[at[k] - interval[k][0] for k in ks], [interval[k][1] - at[k] for k in ks]]
        places = [i + number * width for i in range(len(ks))]
        axis.bar(places, [at[k] for k in ks], width, yerr=error, capsize=4, color=colour, label=name)
    places = [i + len(groups) * width for i in range(len(ks))]
    chance = {int(k): v for k, v in box["chance"].items()}
    axis.bar(places, [chance[k] for k in ks], width, color=GREY, label="chance")
    axis.set_xticks([i + (len(groups) - 1) * width / 2 for i in range(len(ks))], [f"R@{k}" for k in ks])
    axis.set_ylabel(f"recall in a gallery of {box['gallery']}")
    axis.legend(frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def _figure(width: float, height: float, columns: int) -> Any:
    # Imported here: it takes longer than all the rest of an overlay.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
