"""Charts of features, drawn with matplotlib, which is imported only when needed because the import is slow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.diagnostics.summary import ViewSummary
from tactile_align.viz.features.maps import normalised, principal_components
from tactile_align.viz.ink import ASH, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, hexadecimal

CATEGORIES = tuple(hexadecimal(colour) for colour in (ORANGE, SKY, GREEN, PURPLE, VERMILLION, BLUE))
OTHERS = hexadecimal(GREY)
TRAINING, HELD_OUT, CHANCE = (hexadecimal(colour) for colour in (BLUE, VERMILLION, ASH))
BOX, OPENING = TRAINING, HELD_OUT
DPI = 110
LONGEST_TEXT = 60
LEGEND_LETTERS = 130
"""Number of letters, line samples included, in a line of a legend over the whole width of 8 in."""


def similarity_matrix(
    h_tau: np.ndarray, h_w: np.ndarray, *, groups: np.ndarray | None = None, title: str = ""
) -> np.ndarray:
    """Return a chart of the cosines of all touches with all regions; aligned features give a bright diagonal.

    Args:
        h_tau: (N, D) features of N touches, D numbers each; row i belongs to row i of `h_w`.
        h_w: (N, D) features of N image regions.
        groups: (N,) group of each row, e.g. its episode; lines separate neighbouring groups; None: no lines.
        title: Title of the chart.

    Returns:
        (H, W, 3) uint8 RGB: the matrix, and beside it histograms of the cosines of pairs and of non-pairs.

    Raises:
        ValueError: The shapes differ, or the features are not finite.
    """
    _require_pairs(h_tau, h_w)
    cosine = normalised(h_tau) @ normalised(h_w).T
    pair = np.eye(len(cosine), dtype=bool)
    figure = figure_of(11.0, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1.0])
    figure.colorbar(left.imshow(cosine, cmap="cividis", interpolation="nearest"), ax=left, label="cosine")
    left.set(xlabel="region", ylabel="touch")
    left.set_title(plain(title or "cosine of every touch with every region"), wrap=True)
    left.locator_params(integer=True)  # rows and columns are counted
    if groups is not None:
        for edge in np.flatnonzero(np.asarray(groups)[1:] != np.asarray(groups)[:-1]):
            left.axhline(edge + 0.5, color="white", linewidth=0.6)
            left.axvline(edge + 0.5, color="white", linewidth=0.6)
    bins: dict[str, Any] = {"bins": np.linspace(cosine.min() - 1e-6, cosine.max() + 1e-6, 41), "density": True}
    if len(cosine) > 1:
        right.hist(cosine[~pair], **bins, color=OTHERS, label="touch with another region")
    line = {"histtype": "step", "linewidth": 2}
    right.hist(cosine[pair], **bins, **line, color=TRAINING, label="touch with its own region")
    right.set(xlabel="cosine", ylabel="density", title="pairs against non-pairs")
    right.legend(framealpha=0.9, edgecolor="none")
    return pixels_of(figure)


def embedding(
    h_tau: np.ndarray,
    h_w: np.ndarray,
    labels: Sequence[object] | np.ndarray,
    *,
    label_name: str = "label",
    title: str = "",
) -> np.ndarray:
    """Return a chart of touches and regions in the plane of their first two principal components, coloured by label.

    Args:
        h_tau: (N, D) features of N touches, D numbers each; row i belongs to row i of `h_w`.
        h_w: (N, D) features of N image regions.
        labels: N numbers or N words. Numbers are shown on a colour scale. Each of the six most frequent words has its
            own colour and legend entry; all other words share one colour and one entry.
        label_name: Name of the label, e.g. "object", "phase", "episode".
        title: Title of the chart.

    Returns:
        (H, W, 3) uint8 RGB. Circles are touches, crosses are regions; a thin line connects each pair.

    Raises:
        ValueError: The shapes or lengths differ, or the features are not finite.
    """
    _require_pairs(h_tau, h_w)
    if len(labels) != len(h_tau):
        raise ValueError(f"labels must have {len(h_tau)} entries, one per row; got {len(labels)}. Label every row")
    points, shares = principal_components(np.concatenate([normalised(h_tau), normalised(h_w)]))
    touch, view = points[: len(h_tau)], points[len(h_tau) :]
    figure = figure_of(6.6, 5.4)
    axes = figure.subplots()
    for a, b in zip(touch, view, strict=True):
        axes.plot([a[0], b[0]], [a[1], b[1]], color="#bbbbbb", linewidth=0.4, zorder=1)
    values = np.asarray(labels)
    if values.dtype.kind in "fiu":
        for xy, marker in ((touch, "o"), (view, "x")):
            marks = axes.scatter(*xy.T, c=values, cmap="cividis", marker=marker, s=24, zorder=2)
        figure.colorbar(marks, ax=axes, label=label_name)
    else:
        for name, rows, colour in _categories([str(entry) for entry in labels]):
            axes.scatter(*touch[rows].T, color=colour, marker="o", s=22, zorder=2, label=plain(name))
            axes.scatter(*view[rows].T, color=colour, marker="x", s=22, zorder=2)
        axes.legend(title=label_name, frameon=False, fontsize=8)
    x, y = f"component 1 ({100 * shares[0]:.0f} % of variance)", f"component 2 ({100 * shares[1]:.0f} %)"
    axes.set(xlabel=x, ylabel=y, title=plain(title or "touches (circles) and regions (crosses)"))
    return pixels_of(figure)


def attention_over_time(
    shares: np.ndarray, names: Sequence[str], *, contact: np.ndarray | None = None, title: str = ""
) -> np.ndarray:
    """Return a chart of the attention on each kind of token over the rows of an episode.

    Args:
        shares: (T, G) attention in T rows of the episode, summed over all tokens of each of G kinds, 0..1.
        names: Names of the G kinds of tokens, e.g. "touch", "region", "camera", "joints".
        contact: (T,) bool; rows in contact are shaded; None: no shading.
        title: Title of the chart.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The shapes do not fit together.
    """
    if shares.ndim != 2 or shares.shape[1] != len(names):
        raise ValueError(f"shares must have shape (T, {len(names)}); got {shares.shape}. Give one column per name")
    if contact is not None and len(contact) != len(shares):
        raise ValueError(f"contact must have length {len(shares)}; got {len(contact)}. Give one flag per row of shares")
    labels = [plain(name) for name in (*names, *(() if contact is None else ("contact",)))]
    columns = max(1, min(len(labels), int(LEGEND_LETTERS / (max(map(len, labels)) + 8))))
    figure = figure_of(8.0, 3.0 + 0.2 * -(-len(labels) // columns))
    axes = figure.subplots()
    steps = np.arange(len(shares))
    for column, name in enumerate(names):
        style, colour = ("-", "--", ":", "-.")[column % 4], CATEGORIES[column % len(CATEGORIES)]
        axes.plot(steps, shares[:, column], style, color=colour, linewidth=2, label=plain(name))
    if contact is not None:
        shade = {"color": "#e4e4e4", "step": "mid", "label": "contact", "zorder": 0}
        axes.fill_between(steps, 0, 1, where=np.asarray(contact), transform=axes.get_xaxis_transform(), **shade)
    top = 1.05 * max(float(np.max(shares)), 1e-6)
    axes.set(xlabel="row", ylabel="share of attention", title=plain(title), ylim=(0, top))
    figure.legend(frameon=False, ncols=columns, fontsize=8, loc="outside lower center")
    return pixels_of(figure)


def _categories(words: list[str]) -> list[tuple[str, np.ndarray, str]]:
    """Return (name, rows, colour) for each of the most frequent words, then for all other words together."""
    array = np.asarray(words)
    names, counts = np.unique(array, return_counts=True)
    ordered = [str(name) for name in names[np.argsort(-counts, kind="stable")]]
    kept, others = ordered[: len(CATEGORIES)], ordered[len(CATEGORIES) :]
    groups = [(name, np.flatnonzero(array == name), colour) for name, colour in zip(kept, CATEGORIES, strict=False)]
    return groups + ([(f"{len(others)} others", np.flatnonzero(np.isin(array, others)), OTHERS)] if others else [])


def _require_pairs(h_tau: np.ndarray, h_w: np.ndarray) -> None:
    if h_tau.ndim != 2 or h_tau.shape != h_w.shape:
        raise ValueError(
            f"h_tau and h_w must both have the shape (N, D); got {h_tau.shape} and {h_w.shape}. Pass equal shapes"
        )
    if not (np.isfinite(h_tau).all() and np.isfinite(h_w).all()):
        raise ValueError("h_tau or h_w is non-finite in some rows, but must not be. Leave out moments without a box")


def plain(text: str) -> str:
    """Return escaped, shortened text; in matplotlib "$" would start a formula, a leading "_" would hide a label."""
    shown = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def figure_of(width: float, height: float) -> Any:
    """Return an empty matplotlib figure, `width` x `height` in."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def pixels_of(figure: Any) -> np.ndarray:
    """Return the drawn figure, (H, W, 3) uint8 RGB."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def draw_curves(metrics: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the losses of a run: on the left the alignment loss with its chance line, on the right the action loss.

    Args:
        metrics: Records of metrics.jsonl, as `training.logs.read_metrics` returns them.
        path: PNG to write.
        title: Title of the chart.
    """
    figure = figure_of(10, 4)
    axes = _open_axes(figure, 2)
    train = [r for r in metrics if r["kind"] == "train"]
    held_out = [r for r in metrics if r["kind"] == "validation"]
    action = ("l1", "action L1, normalised")
    if any("denoise" in record for record in train):
        action = ("denoise", "denoising loss")
        points = [(r["step"], r["denoise_chance"]) for r in train if "denoise_chance" in r]
        axes[1].plot(*zip(*points, strict=True), color=CHANCE, linestyle="--", label="chance, an output of 0")
    for axis, key, label in ((axes[0], "hsa", "HSA loss"), (axes[1], *action)):
        for records, colour, name in ((train, TRAINING, "training"), (held_out, HELD_OUT, "held-out episodes")):
            points = [(r["step"], r[key]) for r in records if key in r]
            if points:
                marker = "o" if len(points) < 15 else None
                axis.plot(*zip(*points, strict=True), color=colour, label=name, marker=marker)
        axis.set(xlabel="step", ylabel=label)
    chance = [(r["step"], r[name]) for r in train for name in r if name.startswith("chance/")]
    if chance:
        axes[0].plot(*zip(*chance, strict=True), color=CHANCE, linestyle="--", label="chance, ln(1 + negatives)")
    for axis in axes:
        tops = [y for line in axis.lines for y in line.get_ydata()]
        axis.set_ylim(0, 1.06 * max(tops, default=1.0))  # matplotlib's own margin of 5 % would cut markers off
        if axis.lines:
            axis.legend(frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def draw_recall(view: ViewSummary, path: Path, title: str) -> None:
    """Draw the recall at 1, 5 and 10 with 95 % intervals: with the sensor's box, with the opening alone, and of chance.

    Args:
        view: Results of `evaluate` for one view.
        path: PNG to write.
        title: Title of the chart.
    """
    figure = figure_of(7, 4)
    (axis,) = _open_axes(figure, 1)
    box = view.retrieval["both"]
    groups = [("box", box, BOX)]
    if view.opening_only is not None:
        groups.append(("gripper opening only", view.opening_only.retrieval["both"], OPENING))
    width = 0.8 / (len(groups) + 1)
    ks = sorted(box.at)
    places = np.arange(len(ks))
    for number, (name, recall, colour) in enumerate(groups):
        # Too few episodes for an interval: no whisker.
        error = np.abs([[recall.at[k] - end for end in recall.interval[k] or (recall.at[k],) * 2] for k in ks]).T
        heights = [recall.at[k] for k in ks]
        axis.bar(places + number * width, heights, width, yerr=error, capsize=4, color=colour, label=name)
    axis.bar(places + len(groups) * width, [box.chance[k] for k in ks], width, color=CHANCE, label="chance")
    axis.set_xticks(places + (len(groups) - 1) * width / 2, [f"R@{k}" for k in ks])
    axis.set_ylabel(f"recall in a gallery of {box.gallery}")
    axis.legend(frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def _open_axes(figure: Any, columns: int) -> list[Any]:
    """Return axes side by side, with a faint grid and without the frame lines at top and right."""
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return axes


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
