"""Is a dataset loaded as fast as by lerobot itself: `python -m tests.benchmarks.lerobot_loader PYTHON RECORDING`.

PYTHON is that of an environment with `lerobot[dataset]==0.6.1`; RECORDING a folder of simulated episodes with its
rig.toml. The first two episodes are exported with cameras as video, and touches as video, PNG and lossless video. Both
loaders return each frame at its full size as float32, and a chunk of 45 actions. They take turns on the same random
rows in one run; the result is the best of the rounds in items a CPU-second, all threads counted. Exits 1 if, on the
data set of videos, ours reaches less than 0.8 times lerobot with PyAV without cache, or 5 times its faster back end
packed.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tactile_align.calibration.rig import load_rig
from tactile_align.datasets.containers.lerobot import Form, export_lerobot
from tactile_align.datasets.episodes import list_episodes, open_episode
from tactile_align.moments.cache import Job
from tactile_align.moments.dataset import Moments
from tactile_align.moments.inputs import Input

CHUNK, BATCH, ROUNDS, ITEMS = 45, 8, 4, 24
LEAST_PLAIN, LEAST_PACKED = 0.8, 5.0
TOUCHES: tuple[Form, ...] = ("video", "image", "lossless")
THEIRS = """
import sys, time, torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
torch.set_num_threads(1)
root, chunk, backend = sys.argv[1], int(sys.argv[2]), sys.argv[3]
fps = LeRobotDataset("ours/set", root=root, video_backend=backend).fps
times = {"action": [k / fps for k in range(chunk)]}
data = LeRobotDataset("ours/set", root=root, video_backend=backend, delta_timestamps=times)
assert data[0]["action"].shape[0] == chunk
print("ready", flush=True)
for line in sys.stdin:
    rows = [int(word) for word in line.split()]
    began = time.process_time()
    for row in rows:
        data[row]
    print(len(rows) / (time.process_time() - began), flush=True)
"""


class Theirs:
    """lerobot's loader in a process of its own."""

    def __init__(self, python: str, root: Path, backend: str) -> None:
        self.run = subprocess.Popen(
            [python, "-c", THEIRS, str(root), str(CHUNK), backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self._answer() == "ready"

    def _answer(self) -> str:
        assert self.run.stdout is not None
        return self.run.stdout.readline().strip()

    def rate(self, rows: list[int]) -> float:
        assert self.run.stdin is not None
        print(*rows, file=self.run.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        self.run.communicate(timeout=60)


def moments_of(root: Path, recording: Path, cache: Path, packed: bool) -> Moments:
    """Return the moments of a data set with every stream at its full size."""
    rig = load_rig(recording / "rig.toml")
    with open_episode(list_episodes(root)[0]) as episode:
        sizes = {name: episode.width_height(name) for name in (*episode.cameras, *episode.sensors)}
    inputs = tuple(Input(name, name, *size) for name, size in sizes.items())
    return Moments(
        [Job(ref, rig, inputs, packed) for ref in list_episodes(root)], chunk=CHUNK, cache=cache, progress=False
    )


def rate(moments: Moments, rows: list[int]) -> float:
    """Return the items a CPU-second, in batches, with the frames as float32 (channels first)."""
    began = time.process_time()
    for start in range(0, len(rows), BATCH):
        batch = moments.batch(rows[start : start + BATCH])
        for image in (*batch.frames.values(), *(touch.image for touch in batch.touches.values())):
            image.permute(0, 3, 1, 2).float().div_(255)
    return len(rows) / (time.process_time() - began)


def compare(python: str, root: Path, recording: Path, folder: Path) -> tuple[float, float]:
    """Print the rates; return the ratios of ours, without cache and packed, to the faster back end of lerobot."""
    ours = {kind: moments_of(root, recording, folder / "cache", kind == "packed") for kind in ("plain", "packed")}
    theirs = {backend: Theirs(python, root, backend) for backend in ("pyav", "torchcodec")}
    absent = [backend for backend, one in theirs.items() if not one.ready]
    for backend in absent:
        theirs.pop(backend).close()
        print(f"{backend} does not load in this environment")
    best = dict.fromkeys((*theirs, *ours), 0.0)
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        rows = rng.integers(len(ours["plain"]), size=ITEMS).tolist()
        for backend, one in theirs.items():
            best[backend] = max(best[backend], one.rate(rows))
        for kind, moments in ours.items():
            best[kind] = max(best[kind], rate(moments, rows * (10 if kind == "packed" else 1)))
    for one in theirs.values():
        one.close()
    for backend in theirs:
        ratios = ", ".join(f"{kind} {best[kind] / best[backend]:.2f}" for kind in ours)
        print(f"  lerobot with {backend} {best[backend]:.1f} items a CPU-second; ours are times as many: {ratios}")
    print(f"  ours without cache {best['plain']:.1f}, packed {best['packed']:.1f}", flush=True)
    return best["plain"] / best["pyav"], best["packed"] / max(best[backend] for backend in theirs)


def main(python: str, recording: Path) -> int:
    """Print the table; return 1 if the data set of videos misses a bar."""
    torch.set_num_threads(1)
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "in").mkdir()
        for file in sorted(recording.glob("*.hdf5"))[:2]:
            (folder / "in" / file.name).symlink_to(file.resolve())
        for touches in TOUCHES:
            root = folder / touches
            export_lerobot(folder / "in", root, fps=10, cameras="video", touches=touches)
            print(f"cameras video, touches {touches}")
            plain, packed = compare(python, root, recording, folder)
            bad += touches == "video" and (plain < LEAST_PLAIN or packed < LEAST_PACKED)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
