"""The table of a study's finished runs, and what it shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tactile_align.diagnostics.study_rows import ABLATIONS, BASE, ROWS, TABLE
from tactile_align.files import read_json

BOX_ROWS = ("mean", "attention", "grid", "crop")
CONTROLS = ("elsewhere", "crop_elsewhere")


def results(folder: Path) -> list[dict[str, Any]]:
    """Return the finished runs of a study, in the order of the rows and seeds."""
    found = [
        read_json(path, "Delete it: the study trains this row again") for path in folder.glob("runs/*/result.json")
    ]
    order = list(ROWS)
    return sorted(found, key=lambda one: (order.index(one["row"]), one["seed"]))


def table_text(found: Sequence[dict[str, Any]], gallery: int) -> str:
    """Return the table of finished runs as Markdown, with what it shows and what it does not."""
    if not found:
        return "no finished run yet\n"
    encoders = ", ".join(dict.fromkeys(one["encoder"] for one in found))
    chance = found[0]["retrieval"]["both"]["chance"]
    of_table = [one for one in found if ROWS[one["row"]] in TABLE]
    of_ablations = [one for one in found if ROWS[one["row"]] in ABLATIONS or one["row"] == BASE]
    head = (
        f"Retrieval among {gallery} held-out contacts, both directions averaged; encoders: {encoders}. "
        f"Chance: R@1 {_at(chance, 1):.3f}, R@5 {_at(chance, 5):.3f}. Intervals: 95 %, bootstrap over episodes.\n"
    )
    parts = [head]
    if of_table:
        parts += [_markdown(of_table), *(line + "\n" for line in verdicts(found))]
    if any(one["row"] != BASE for one in of_ablations):
        parts += [f"Changes of '{ROWS[BASE].title}', one at a time:\n", _markdown(of_ablations)]
    return "\n".join(parts)


def _markdown(found: Sequence[dict[str, Any]]) -> str:
    lines = ["| row | seed | R@1 | R@5 | median rank | CPU min |", "|---|---|---|---|---|---|"]
    for one in found:
        both = one["retrieval"]["both"]
        low, high = _at(both["interval"], 1)
        title = ROWS[one["row"]].title
        lines.append(
            f"| {title} | {one['seed']} | {_at(both['at'], 1):.3f} [{low:.3f}, {high:.3f}] | {_at(both['at'], 5):.3f} "
            f"| {both['median_rank']:.1f} | {one['cpu_minutes']:.1f}{' (resumed)' if one['resumed'] else ''} |"
        )
    return "\n".join(lines) + "\n"


def verdicts(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return, seed by seed, whether a box beats whole image and opening, and whether elsewhere is at chance."""
    lines = []
    for seed in sorted({one["seed"] for one in found}):
        rows = {one["row"]: one["retrieval"]["both"] for one in found if one["seed"] == seed}
        if not all(row.name in rows for row in TABLE):
            continue
        best = max(BOX_ROWS, key=lambda name: _at(rows[name]["at"], 1))
        low = _at(rows[best]["interval"], 1)[0]
        rivals = {name: _at(rows[name]["interval"], 1)[1] for name in ("whole", "opening")}
        beaten = [ROWS[name].title for name, high in rivals.items() if low > high]
        lines.append(
            f"seed {seed}: the best box is '{ROWS[best].title}'; its interval lies above that of "
            f"{' and '.join(beaten) or 'none of whole image and opening only'}; "
            + "; ".join(_against_chance(name, rows[name]) for name in CONTROLS)
        )
    return lines


def _against_chance(name: str, both: dict[str, Any]) -> str:
    low, high = _at(both["interval"], 1)
    contains = low <= _at(both["chance"], 1) <= high
    return f"the interval of '{ROWS[name].title}' {'contains' if contains else 'does NOT contain'} chance"


def _at(by_k: dict[Any, Any], k: int) -> Any:
    """JSON turns numbers that are keys into text."""
    return by_k[k] if k in by_k else by_k[str(k)]
