"""Print the error of 10,000 random sensor boxes against brute force: `python -m tests.benchmarks.box_error`.

Exits 1 when a box is off by more than half a pixel, or when one exists that should not, or the reverse. Another number
of sensors may be given. The oracle takes 0.03 s of one core for each sensor.
"""

import sys

import numpy as np

from tests.projection.box_cases import LENSES, compare, sensors

MAX_ERROR_PX = 0.5


def main(count: int = 10_000) -> int:
    """Print one row per lens; return 1 when a box is wrong."""
    bad, total = 0, 0
    print("| lens | sensors | boxes | cut by near plane | cut by border | cut by limit | behind |", end="")
    print(" max px | p99 px | only one has a box |\n|---|" + "---:|" * 9)
    for lens in LENSES:
        T, size = sensors(-(-count // len(LENSES)), seed=11)
        found = compare(lens, T, size)
        errors = np.array(found.errors)
        bad += len(found.alone) + int((errors > MAX_ERROR_PX).sum())
        total += len(T)
        print(
            f"| {lens} | {len(T)} | {len(errors)} | {found.near_plane} | {found.border} | {found.limit} "
            f"| {found.behind} | {errors.max():.4f} | {np.percentile(errors, 99):.4f} | {len(found.alone)} |",
            flush=True,
        )
    print(f"\n{total:,} sensors, {bad} wrong (bar {MAX_ERROR_PX} px)")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
