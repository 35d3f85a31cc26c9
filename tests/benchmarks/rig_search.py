"""Print which change of a rig `verify` names for planted mistakes and pairs: `python -m tests.benchmarks.rig_search`.

One line for each draw; a final table with the bars (named first with the right value in 23 of 25 draws, nothing that a
passing view contradicts, a right or merely distorted rig never blamed). For a pair, the answer "more than one thing"
(nothing offered) also counts. Exits 1 when a bar is missed. `--draws` and `--first` choose the draws, `--kind` (once
or more) the kinds of mistakes.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.verify.limits import LIMITS
from tactile_align.verify.rig_search import search
from tests.verify.two_sensors import KINDS, PAIRS, draw, right_rig, value_fault, write_urdf

ALL = [*KINDS, *PAIRS]
NOTHING = "nothing offered"


def judge(kind: str, seed: int, folder: Path) -> tuple[bool, int, str]:
    """Return whether a draw is named with its value, how many offered changes a passing view contradicts, and text."""
    drawn = draw(kind, right_rig(write_urdf(folder)), np.random.default_rng([seed, ALL.index(kind)]))
    found = search(drawn.written, drawn.evidence)
    if found is None or not drawn.parts:
        return (found is None) == (not drawn.parts), 0, "no view fails" if found is None else "blamed"
    if not found.offered:
        return False, 0, NOTHING
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
    return first.parts == drawn.parts and not fault, wrong, f"{names} {fault}"


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
            right, several, contradicted = 0, 0, 0
            for seed in range(options.first, options.first + options.draws):
                start = time.process_time()
                good, wrong, text = judge(kind, seed, Path(folder))
                seconds = time.process_time() - start
                unnamed = kind in PAIRS and text == NOTHING
                verdict = "right" if good else "more than one thing" if unnamed else "WRONG"
                print(f"{kind}\t{seed}\t{verdict}\t{seconds:.2f} s\t{text}", flush=True)
                right, several, contradicted = right + good, several + unnamed, contradicted + wrong
            share = 1.0 if kind in ("right rig", "distortion forgotten") else 23 / 25
            missed += right + several < share * options.draws or contradicted > 0
            rows.append(f"| {kind} | {right} of {options.draws} | {several or ''} | {contradicted} |")
    print("| mistake | named first with the right value | more than one thing | contradicted by a passing view |")
    print("|---|---:|---:|---:|")
    print("\n".join(rows))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
