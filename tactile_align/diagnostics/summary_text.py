"""A run's summary as a table for people."""

from collections.abc import Iterator
from typing import Any

SIDES = {"h_tau": "touch", "h_w": "region"}
SPACE_PAIRS = ("rank", "spread", "partition_isotropy", "uniformity")


def summary_text(summary: dict[str, Any]) -> str:
    """Return the table of what `evaluate` found, with chance and opening-only beside each number."""
    lines = [f"run {summary['run']}, encoders: {summary['encoder']}"]
    for key, view in summary["views"].items():
        loss = view["loss"]
        lines += [
            "",
            f"view {key}: {view['contacts']} held-out contacts, {view['moments']} moments",
            f"HSA {loss['hsa']:.3f}, chance {loss['chance']:.3f}: {_of_chance(loss)}",
            f"{'':30}{'R@1 [95 % interval]':>24}{'R@5':>8}{'R@10':>8}{'median rank':>13}",
        ]
        for title, found in (("box", view), ("opening only", view.get("opening_only"))):
            for direction, recall in (found or {"retrieval": {}})["retrieval"].items():
                at = recall["at"]
                lines.append(
                    f"{title + ', ' + direction:30}{_with_interval(at[1], recall['interval'][1]):>24}"
                    f"{at[5]:8.3f}{at[10]:8.3f}{recall['median_rank']:13.1f}"
                )
        recall = view["retrieval"]["both"]
        chance = recall["chance"]
        lines.append(
            f"{'chance':30}{f'{chance[1]:.3f}':>24}{chance[5]:8.3f}{chance[10]:8.3f}{(recall['gallery'] + 1) / 2:13.1f}"
        )
        lines.append(f"gallery of {recall['gallery']}, one moment per contact, {recall['episodes']} held-out episodes")
        lines += ["", *readout_lines(view)]
    if "action_error" in summary:
        error = summary["action_error"]
        lines += ["", "mean absolute action error on held-out episodes, robot units, per column:"]
        lines.append("  policy          " + " ".join(f"{value:.4f}" for value in error["per_column"]))
        if "standing_still_per_column" in error:
            lines.append("  standing still  " + " ".join(f"{v:.4f}" for v in error["standing_still_per_column"]))
    return "\n".join(lines)


def readout_lines(view: dict[str, Any]) -> Iterator[str]:
    """Yield what was read off one view's features: galleries, localisation, feature space, probes, and what was not.

    Args:
        view: One entry of the summary's "views", as `evaluate` returns it or as summary.json holds it.
    """
    other = view.get("opening_only", {}).get("galleries", {})
    yield f"{'other galleries':30}{'R@1 [95 % interval]':>24}{'opening only':>14}{'chance':>8}{'gallery':>9}"
    for name, found in view["galleries"].items():
        # Every region of an image has the same opening, so there is nothing to set beside that gallery.
        base = f"{_first(other[name]['both']['at']):.3f}" if name in other else "-"
        recall = found.get("both", found)
        at = _with_interval(_first(recall["at"]), _first(recall["interval"]))
        yield f"{name:30}{at:>24}{base:>14}{_first(recall['chance']):8.3f}{recall['gallery']:9d}"
    if "localisation" in view:
        place = view["localisation"]
        mm = "" if place["distance_mm"] is None else f", {place['distance_mm']:.1f} mm"
        yield (
            f"localisation: {_with_interval(place['hit'], place['interval'])} of {place['moments']} touches point into "
            f"the box; the best fixed guess {place['always_there']:.3f}, a random place {place['chance']:.3f}; "
            f"median {place['distance_px']:.1f} px{mm} off its centre"
        )
    if "space" in view:
        space = view["space"]
        pair = {name: f"{space[f'{name}_touch']:.2f} / {space[f'{name}_vision']:.2f}" for name in SPACE_PAIRS}
        yield (
            f"feature space, touch / region: effective rank {pair['rank']} of {space['dim']}, spread "
            f"{pair['spread']}, partition isotropy {pair['partition_isotropy']}, uniformity {pair['uniformity']}; "
            f"alignment {space['alignment']:.2f}, gap {space['modality_gap']:.2f}, margin {space['margin']:+.3f}: "
            f"{space['verdict']}"
        )
    for name, probe in view["probes"].items():
        what, side = name.split(" from ")
        score = _with_interval(probe["score"], probe["interval"])
        yield f"{f'probe: {what} from {SIDES[side]}':30}{score:>24} {probe['measure']}, chance {probe['chance']:.3f}"
    reasons: dict[str, list[str]] = {}
    for name, reason in view["left_out"].items():
        reasons.setdefault(reason, []).append(name.partition("/")[2] or name)
    for reason, names in reasons.items():
        yield f"left out, {', '.join(names)}: {reason}"


def _of_chance(loss: dict[str, Any]) -> str:
    if loss["chance"] == 0:
        return "no pair of a batch has a negative, which is no test at all; raise batch_size or lower hsa.min_gap"
    return f"{loss['hsa'] / loss['chance']:.2f} of chance"


def _first(by_k: dict[Any, Any]) -> Any:
    """Return the value at k = 1, which JSON makes a "1"."""
    return by_k[1] if 1 in by_k else by_k["1"]


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
