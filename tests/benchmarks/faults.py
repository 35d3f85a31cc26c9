"""Print how often each injected fault is found, and how often a sound session is blamed.

`python -m tests.benchmarks.faults [SESSIONS]`. Seeds start at 50000; thresholds were set on seeds below 1000.
"""

import sys
import time
from collections import Counter

from tactile_align.calibration.faults import find_faults
from tests.calibration.injected import FAULTS, clean

FIRST_SEED = 50_000


def tried(name: str, sessions: int, first_seed: int) -> tuple[int, Counter[str]]:
    """Return in how many sessions a fault was found under its name or its class, and what was said instead."""
    make, names = FAULTS[name]
    hits, others = 0, Counter[str]()
    for seed in range(first_seed, first_seed + sessions):
        said = [fault.name for fault in find_faults(*make(seed))]
        if said and any(one in names for one in said[:2]):
            hits += 1
        else:
            others[said[0] if said else "nothing"] += 1
    return hits, others


def main(sessions: int = 50) -> int:
    """Print the table; return 1 when a bar is missed."""
    missed = 0
    print(f"{'fault':34s} found in {sessions}   seconds each   otherwise said")
    for name in FAULTS:
        start = time.perf_counter()
        hits, others = tried(name, sessions, FIRST_SEED)
        missed += hits < 0.96 * sessions
        each = (time.perf_counter() - start) / sessions
        print(f"{name:34s} {hits:8d}   {each:12.2f}   {dict(others) or ''}", flush=True)
    blamed = Counter(fault.name for s in range(sessions) for fault in find_faults(*clean(FIRST_SEED + s))[:1])
    print(f"{'none: sound sessions blamed':34s} {sum(blamed.values()):8d}                  {dict(blamed) or ''}")
    return int(missed > 0 or bool(blamed))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
