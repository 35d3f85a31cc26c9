"""Print how often each injected fault is found, and how often a sound session is blamed.

`python -m tests.benchmarks.faults [SESSIONS] [FAULT ...]`: 50 sessions of every fault, or of the faults named; each
row is printed when it is done, so a run that was stopped goes on with the names still missing. Seeds start at 50000;
thresholds were set on seeds below 1000. Give each process one thread (OMP_NUM_THREADS=1): the matrices are small.
"""

import sys
import time
from collections import Counter

from tactile_align.sessions.diagnosis import find_faults
from tests.sessions.injected import FAULTS, clean, counts_as

FIRST_SEED = 50_000
SOUND = "none"
BAR = 0.96


def tried(name: str, sessions: int, first_seed: int) -> tuple[int, Counter[str], float]:
    """Return in how many sessions a fault was named or classed rightly, what was said instead, and seconds each.

    For SOUND, sessions without a fault, right is to say nothing.
    """
    make = clean if name == SOUND else FAULTS[name][0]
    names = () if name == SOUND else counts_as(name)
    hits, others, spent = 0, Counter[str](), 0.0
    for seed in range(first_seed, first_seed + sessions):
        case = make(seed)
        start = time.process_time()
        said = [fault.id for fault in find_faults(*case)]
        spent += time.process_time() - start
        if (not said) if name == SOUND else any(one in names for one in said[:2]):
            hits += 1
        else:
            others[said[0] if said else "nothing"] += 1
    return hits, others, spent / sessions


def main(sessions: int, names: list[str]) -> int:
    """Print the table; return 1 when a bar is missed."""
    missed = 0
    print(f"| fault put in | right, of {sessions} | seconds each | said instead |\n|---|---:|---:|---|")
    for name in names:
        hits, others, each = tried(name, sessions, FIRST_SEED)
        missed += hits < sessions * (1 if name == SOUND else BAR)
        instead = ", ".join(f"{one} {count}" for one, count in others.items())
        print(f"| {name} | {hits} | {each:.2f} | {instead} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    every = [*FAULTS, SOUND]
    unknown = [name for name in sys.argv[2:] if name not in every]
    if unknown:
        sys.exit(f"no fault '{unknown[0]}'; there are: {', '.join(every)}")
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, sys.argv[2:] or every))
