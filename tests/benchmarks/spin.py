"""Waiting threads that sleep against threads that spin, as PyTorch has it: `python -m tests.benchmarks.spin`.

Two threads take training steps of one transformer layer, alone on the machine and beside busy programs, one fewer than
there are cores. The settings take turns, each in a process of its own; seconds of wall time, the best of the rounds
when quiet, the median when busy. Exits 1 where sleeping costs more than 3 % on the quiet machine, or is less than twice
as fast on the busy one. Other programs must be idle, or the quiet half means nothing.
"""

import os
import statistics
import subprocess
import sys
import time

from tactile_align.__main__ import WAITING

ROUNDS, STEPS = 7, 20
MOST_QUIET, LEAST_BUSY = 1.03, 2.0
BUSY = "while True: pass"


def steps() -> float:
    """Return the seconds of a step in this process."""
    import torch

    torch.set_num_threads(2)
    layer = torch.nn.TransformerEncoderLayer(192, 4, 768, batch_first=True)
    x = torch.randn(16, 145, 192)
    spent = []
    for _ in range(STEPS):
        began = time.perf_counter()
        layer(x).square().mean().backward()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent[STEPS // 4 :])


def seconds(policy: str | None) -> float:
    """Return the seconds of a step in a new process, with OpenMP's own waiting where `policy` is None."""
    environment = {name: value for name, value in os.environ.items() if name not in (*WAITING, "OMP_NUM_THREADS")}
    environment |= {} if policy is None else {WAITING[0]: policy}
    command = [sys.executable, "-m", "tests.benchmarks.spin", "--one"]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def table(neighbours: int) -> dict[str | None, list[float]]:
    """Return the seconds of each setting and round, beside a number of busy programs."""
    programs = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(neighbours)]
    try:
        rounds = [{policy: seconds(policy) for policy in (None, "passive")} for _ in range(ROUNDS)]
    finally:
        for program in programs:
            program.kill()
            program.wait()
    return {policy: [each[policy] for each in rounds] for policy in rounds[0]}


def main() -> int:
    """Print the table; return 1 where a bar is missed."""
    if sys.argv[1:] == ["--one"]:
        print(steps())
        return 0
    quiet = {policy: min(spent) for policy, spent in table(0).items()}
    busy = {policy: statistics.median(spent) for policy, spent in table(max(1, (os.cpu_count() or 2) - 1)).items()}
    print("| machine | spinning, ms | sleeping, ms | spinning / sleeping |\n|---|---:|---:|---:|")
    for name, found in (("quiet", quiet), ("busy", busy)):
        spins, sleeps = found[None], found["passive"]
        print(f"| {name} | {1000 * spins:.0f} | {1000 * sleeps:.0f} | {spins / sleeps:.2f} |")
    kept = quiet["passive"] <= MOST_QUIET * quiet[None] and busy[None] >= LEAST_BUSY * busy["passive"]
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
