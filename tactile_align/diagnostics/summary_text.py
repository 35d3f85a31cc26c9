"""A run's summary as a table for people."""

from typing import Any


def summary_text(summary: dict[str, Any]) -> str:
    """Return the table of what `evaluate` found, with chance and opening-only beside each number."""
    lines = [f"run {summary['run']}, encoders: {summary['encoder']}"]
    for key, view in summary["views"].items():
        loss = view["loss"]
        lines += [
            "",
            f"view {key}: {view['contacts']} held-out contacts, {view['moments']} moments",
            f"HSA {loss['hsa']:.3f}, chance {loss['chance']:.3f}: {loss['hsa'] / loss['chance']:.2f} of chance",
            f"{'':28}{'R@1 [95 % interval]':>24}{'R@5':>8}{'R@10':>8}{'median rank':>13}",
        ]
        for title, found in (("box", view), ("opening only", view.get("opening_only"))):
            for direction, recall in (found or {"retrieval": {}})["retrieval"].items():
                low, high = recall["interval"][1]
                at = recall["at"]
                lines.append(
                    f"{title + ', ' + direction:28}{f'{at[1]:.3f} [{low:.3f}, {high:.3f}]':>24}"
                    f"{at[5]:8.3f}{at[10]:8.3f}{recall['median_rank']:13.1f}"
                )
        recall = view["retrieval"]["both"]
        chance = recall["chance"]
        lines.append(
            f"{'chance':28}{f'{chance[1]:.3f}':>24}{chance[5]:8.3f}{chance[10]:8.3f}{(recall['gallery'] + 1) / 2:13.1f}"
        )
        lines.append(f"gallery of {recall['gallery']}, one moment per contact, {recall['episodes']} held-out episodes")
    if "action_error" in summary:
        error = summary["action_error"]
        lines += ["", "mean absolute action error on held-out episodes, robot units, per column:"]
        lines.append("  policy          " + " ".join(f"{value:.4f}" for value in error["per_column"]))
        if "standing_still_per_column" in error:
            lines.append("  standing still  " + " ".join(f"{v:.4f}" for v in error["standing_still_per_column"]))
    return "\n".join(lines)
