"""Print how often each injected fault is found, and how often a sound session is blamed.

`python -m tests.benchmarks.faults [SESSIONS] [FAULT ...]`: 50 sessions of every fault, of faults as real sessions had
them, with and without two bad views, and of pairs of faults; or of those named. "recorded" is all faults of K and of
rows in the three real recordings, once each. Each row is printed when it is done, so a run that was stopped goes on
with the names still missing. Seeds start at 50000; thresholds were set on seeds below 1000. Give each process one
thread (OMP_NUM_THREADS=1): the matrices are small.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable

from tactile_align.sessions.diagnosis import find_faults
from tests.sessions.injected import FAULTS, FIELD, PAIRED, Case, clean, counts_as, named
from tests.sessions.recorded import RECORDED, crop, exchange, lens_times

FIRST_SEED = 50_000
SOUND, REAL = "none", "recorded"
BAR = 0.96


def right(name: str, said: list[str]) -> bool:
    """Return whether checks with these ids name or class a fault rightly.

    For SOUND, right is to say nothing. Of two faults, both must be named, or that there are several.
    """
    if name == SOUND:
        return not said
    if name in PAIRED:
        return named(PAIRED[name][1:], said)
    return any(one in counts_as(name) for one in said[:2])


def tried(name: str, sessions: int, first_seed: int) -> tuple[int, Counter[str], float]:
    """Return in how many sessions a fault was named or classed rightly, what was said instead, and seconds each."""
    make = clean if name == SOUND else (FAULTS | FIELD | PAIRED)[name][0]
    hits, others, spent = 0, Counter[str](), 0.0
    for seed in range(first_seed, first_seed + sessions):
        case = make(seed)
        start = time.process_time()
        said = [fault.id for fault in find_faults(*case)]
        spent += time.process_time() - start
        if right(name, said):
            hits += 1
        else:
            others[" + ".join(said) or "nothing"] += 1
    return hits, others, spent / sessions


def recorded() -> tuple[int, int, Counter[str], float]:
    """Return the same for the sets made from real recordings, and their number."""
    lens, rows = "fault/intrinsics-of-another-resolution", "fault/rows-exchanged"
    lenses: list[tuple[str, Callable[[Case], Case]]] = [
        (f"K x {s:.3g}", lens_times(s)) for s in (1 / 2, 2 / 3, 3 / 4, 4 / 3, 3 / 2, 2.0)
    ]
    lenses.append(("crop", crop))
    sets = [(f"{of} {name}", change(RECORDED[of]()), {lens}) for of in RECORDED for name, change in lenses]
    sets += [(f"{name}, rows", exchange(case), ids | {rows}) for name, case, ids in sets]
    sets += [(f"{of} rows", exchange(RECORDED[of]()), {rows}) for of in RECORDED]
    hits, others, start = 0, Counter[str](), time.process_time()
    for name, case, ids in sets:
        said = {fault.id for fault in find_faults(*case)}
        hits += said == ids
        others += Counter() if said == ids else Counter([f"{name}: {' + '.join(sorted(said)) or 'nothing'}"])
    return len(sets), hits, others, (time.process_time() - start) / len(sets)


def main(sessions: int, names: list[str]) -> int:
    """Print the table; return 1 when a bar is missed."""
    missed = 0
    print(f"| fault put in | right, of {sessions} | seconds each | said instead |\n|---|---:|---:|---|")
    for name in names:
        number = sessions
        if name == REAL:
            number, hits, others, each = recorded()
        else:
            hits, others, each = tried(name, sessions, FIRST_SEED)
        missed += hits < number * (1 if name in (SOUND, REAL) else BAR)
        instead = ", ".join(f"{one} {count}" for one, count in others.items())
        print(
            f"| {name} | {hits}{f' of {number}' if number != sessions else ''} | {each:.2f} | {instead} |", flush=True
        )
    return int(missed > 0)


if __name__ == "__main__":
    every = [*FAULTS, SOUND, *FIELD, *PAIRED, REAL]
    unknown = [name for name in sys.argv[2:] if name not in every]
    if unknown:
        sys.exit(f"no fault '{unknown[0]}'; there are: {', '.join(every)}")
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, sys.argv[2:] or every))
