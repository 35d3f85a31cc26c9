"""Print the error of 10,000 random sensor boxes against brute force: `python -m tests.benchmarks.box_error`."""

import sys

import numpy as np

from tests.projection.test_box_oracle import LENSES, disagreements


def main(count: int = 10_000) -> int:
    """Print one line per lens; return 1 when a box is off by more than half a pixel."""
    bad = 0
    print(f"{'lens':30s} {'boxes':>6s} {'max px':>8s} {'p99 px':>8s}  only one has a box")
    for name in LENSES:
        errors, alone = disagreements(name, count // len(LENSES), seed=11)
        bad += len(alone) + int((errors > 0.5).sum())
        print(
            f"{name:30s} {len(errors):6d} {errors.max():8.3f} {np.percentile(errors, 99):8.3f}  {len(alone)}",
            flush=True,
        )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
