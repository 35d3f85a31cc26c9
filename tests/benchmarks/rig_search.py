"""Print which change of a rig `verify` names for planted mistakes and pairs: `python -m tests.benchmarks.rig_search`.

One line for each draw; a final table with the bars (named first with the right value in 23 of 25 draws, nothing that a
passing view contradicts, a right or merely distorted rig never blamed). For a pair, both parts named first with
another value, and the answer "more than one thing", also count. Exits 1 when a bar is missed. `--draws` and `--first`
choose the draws, `--kind` (once or more) the kinds of mistakes.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.verify.limits import LIMITS
from tactile_align.verify.rig_search import search
from tests.verify.two_sensors import KINDS, PAIRS, draw, right_rig, value_fault, write_urdf

ALL = [*KINDS, *PAIRS]
RIGHT, NAMED, SEVERAL, WRONG = "right", "other value", "more than one thing", "WRONG"


def judge(kind: str, seed: int, folder: Path) -> tuple[str, int, str]:
    """Return a verdict on a draw, how many offered changes a passing view contradicts, and what was offered as text.

    The verdict is RIGHT (named first with its value), NAMED (the right parts with another value), SEVERAL (nothing
    offered) or WRONG.
    """
    drawn = draw(kind, right_rig(write_urdf(folder)), np.random.default_rng([seed, ALL.index(kind)]))
    found = search(drawn.written, drawn.evidence)
    if found is None or not drawn.parts:
        verdict = RIGHT if found is None and not drawn.parts else WRONG
        return verdict, 0, "no view fails" if found is None else "blamed"
    if not found.offered:
        return SEVERAL, 0, "nothing offered"
    first = found.offered[0]
    fault = value_fault(first.rig(drawn.written), drawn.true)
    wrong = 0
    for one in found.offered:
        changed = one.rig(drawn.written)
        for i in np.flatnonzero(found.written.iou >= LIMITS["iou-median"].good):
            view = found.views[i]
            box = sensor_boxes(changed, view.camera, view.sensor, drawn.evidence[0].qpos, min_side_px=0).box
            off = np.abs(box - drawn.boxes[view.camera, view.sensor])
            wrong += int(not np.nanmedian(off) <= view.tolerance)
    names = " | ".join(
        f"{'+'.join(one.parts)}: {', '.join(change.name for change in one.changes)} ({one.score:.0f})"
        for one in found.offered
    )
    verdict = WRONG if first.parts != drawn.parts else NAMED if fault else RIGHT
    return verdict, wrong, f"{names} {fault}"


def main(argv: list[str] | None = None) -> int:
    """Print one line per draw and the table; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=25)
    parser.add_argument("--first", type=int, default=0, help="seed of the first draw")
    parser.add_argument("--kind", choices=ALL, action="append")
    options = parser.parse_args(argv)
    rows, missed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kind or ALL:
            verdicts, contradicted = Counter[str](), 0
            for seed in range(options.first, options.first + options.draws):
                start = time.process_time()
                verdict, wrong, text = judge(kind, seed, Path(folder))
                seconds = time.process_time() - start
                print(f"{kind}\t{seed}\t{verdict}\t{seconds:.2f} s\t{text}", flush=True)
                verdicts[verdict] += 1
                contradicted += wrong
            share = 1.0 if kind in ("right rig", "distortion forgotten") else 23 / 25
            good = sum(verdicts[one] for one in ((RIGHT, NAMED, SEVERAL) if kind in PAIRS else (RIGHT,)))
            missed += good < share * options.draws or contradicted > 0
            counts = " | ".join(str(verdicts[one]) for one in (RIGHT, NAMED, SEVERAL, WRONG))
            rows.append(f"| {kind} | {counts} | {contradicted} |")
    print("| mistake | named first with the right value | other value | more than one thing | wrong | contradicted |")
    print("|---|---:|---:|---:|---:|---:|")
    print("\n".join(rows))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
