"""Print how long `verify` and `overlay` take to start, against the libraries they cannot do without.

`python -m tests.benchmarks.start`; exits 1 above 4 times the time of `import numpy, cv2, h5py`. Times are process time
of fresh interpreters, warm, median of 5 rounds that take turns: ratios hold on a busy machine too.
"""

import os
import statistics
import subprocess
import sys

BAR = 4.0
ROUNDS = 5
BASE = "import numpy, cv2, h5py"
STARTS = {
    f"`python -c '{BASE}'`": ["-c", BASE],
    "`tactile-align verify --help`": ["-m", "tactile_align", "verify", "--help"],
    "`tactile-align overlay --help`": ["-m", "tactile_align", "overlay", "--help"],
    "what verify runs on episodes, imported": ["-c", "import tactile_align.verify.verify"],
    "what verify runs on a session, imported": ["-c", "import tactile_align.sessions.calibrate"],
    "what overlay runs, imported": ["-c", "import tactile_align.viz.overlay.overlay"],
}


def seconds(arguments: list[str]) -> float:
    """Return user and system time of one interpreter."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> int:
    """Print the table; return 1 when a ratio is above the bar."""
    spent: dict[str, list[float]] = {name: [] for name in STARTS}
    for round_ in range(-1, ROUNDS):  # the first round warms the caches
        for name, arguments in STARTS.items():
            once = seconds(arguments)
            if round_ >= 0:
                spent[name].append(once)
    median = {name: statistics.median(times) for name, times in spent.items()}
    base = next(iter(median.values()))
    print(f"| start | ms | times the first (bar {BAR:g}) |\n|---|---:|---:|")
    for name, time in median.items():
        print(f"| {name} | {time * 1e3:.0f} | {time / base:.2f} |")
    return int(max(median.values()) > BAR * base)


if __name__ == "__main__":
    sys.exit(main())
