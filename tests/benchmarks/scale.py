"""Growth of cost and memory with the number of episodes, and with the length of one: docs/scale.md states the results.

    python -m tests.benchmarks.scale FOLDER [--episodes 100 1000 10000] [--parts listing inspect ...] [--long 12000]

Small HDF5 episodes (three streams) are written into FOLDER/NUMBER, except those that are there; so a run that was
interrupted goes on. Each part runs in a process of its own and prints one line per number of episodes: CPU seconds,
because other work may share the machine, and the peak of the resident memory. Then comes the line through the CPU
seconds. Exits 1 where a figure is over its bar, or growth is not linear. `prepare` fills FOLDER/NUMBER.cache, which
`index` needs.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tactile_align.calibration.rig import load_rig
from tactile_align.cli import run
from tactile_align.datasets import codec
from tactile_align.datasets.containers.lerobot_writer import DatasetWriter
from tactile_align.datasets.episodes import list_episodes, open_episode, write_episode
from tactile_align.files import building, write_text_atomically

ROOT = Path(__file__).parents[2]
STEPS, WIDTH, HEIGHT, FEW = 12, 32, 24, 4
QPOS, ACTION = "observations/qpos", "action"
BARS = {
    ("warm listing", "CPU s"): 2.0,
    ("listing by layout", "CPU s"): 2.0,
    ("index", "grown MB"): 200.0,
    ("inspect, long", "peak MB"): 300.0,
}
"""Largest figure at 10,000 episodes, and of the episode of 12,000 steps."""
BENT = 2.0
"""Largest cost per episode at the largest number, divided by that at the number before: 1 is linear growth.

Quadratic growth gives 10; up to 1.6 was measured (docs/scale.md).
"""


def record(path: Path, steps: int = STEPS) -> Path:
    """Write one episode, in which the gel is pressed in every other group of eight rows, and return its path."""
    rng = np.random.default_rng(0)
    base = rng.uniform(60, 120, (HEIGHT, WIDTH, 3))
    scenes = [(base + rng.normal(0, 1, base.shape)).astype(np.uint8) for _ in range(FEW)]
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    dent = 60 * np.exp(-((u - WIDTH / 2) ** 2 + (v - HEIGHT / 2) ** 2) / 20)[..., None]
    free = [codec.encode_jpeg(scene, 95) for scene in scenes]
    pressed = [codec.encode_jpeg((scene + dent).astype(np.uint8), 95) for scene in scenes]
    rows = [free[t % FEW] for t in range(steps)]
    touch = [(pressed if t // 8 % 2 else free)[t % FEW] for t in range(steps)]
    qpos = np.cumsum(rng.normal(0, 0.01, (steps, 14)), axis=0)
    images = {"top": rows, "left_wrist": rows}
    return write_episode(path, qpos=qpos, action=qpos + 0.01, images=images, touches={"tactile1": touch}, fps=30.0)


def written(folder: Path, episodes: int) -> Path:
    """Return FOLDER/NUMBER with that many episodes, each with joints of its own; those that are missing are written."""
    place = folder / str(episodes)
    first = place / "episode_init_0.hdf5"
    if not first.exists():
        record(first)
    for number in range(1, episodes):
        path = place / f"episode_init_{number}.hdf5"
        if path.exists():
            continue
        part = path.with_suffix(".part")
        part.write_bytes(first.read_bytes())
        with h5py.File(part, "r+") as file:
            qpos = np.cumsum(np.random.default_rng(number).normal(0, 0.01, (STEPS, 14)), axis=0)
            file[QPOS][:], file[ACTION][:] = qpos, qpos + 0.01
        part.replace(path)
    return place


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _cost(begun: float) -> dict[str, float]:
    return {"CPU s": time.process_time() - begun, "peak MB": _peak_mb()}


def files(place: Path) -> Iterable[tuple[str, dict[str, float]]]:
    """Write as many small files into one folder as there are episodes, each atomically."""
    many, begun = place.with_name(f"{place.name}.files"), time.process_time()
    for number in range(int(place.name)):
        write_text_atomically(many / f"{number}.txt", "small")
    yield "files written", _cost(begun)


def listing(place: Path) -> Iterable[tuple[str, dict[str, float]]]:
    """List the episodes for the first time in a process, and again."""
    for name in ("cold listing", "warm listing"):
        begun = time.process_time()
        assert len(list_episodes(place)) == int(place.name)
        yield name, _cost(begun)


def by_layout(place: Path) -> Iterable[tuple[str, dict[str, float]]]:
    """List the episodes for the first time in a process, with the layout named, so that no file is opened."""
    begun = time.process_time()
    assert len(list_episodes(place, "xtrainer")) == int(place.name)
    yield "listing by layout", _cost(begun)


def lerobot(place: Path) -> Iterable[tuple[str, dict[str, float]]]:
    """Open every episode of one LeRobotDataset of as many small episodes, and read a touch of it."""
    root, frame = place.with_name(f"{place.name}.lerobot"), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    streams, png = ("observation.images.top", "observation.images.tactile1"), codec.encode_png(frame)
    if not root.exists():
        numbers: dict[str, dict[str, Any]] = {
            key: {"dtype": "float32", "shape": [14], "names": None} for key in ("observation.state", "action")
        }
        image = {"dtype": "image", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]}
        with building(root) as part:
            with DatasetWriter(part, numbers | dict.fromkeys(streams, image), 30, None) as writer:
                for number in range(int(place.name)):
                    qpos = np.cumsum(np.random.default_rng(number).normal(0, 0.01, (STEPS, 14)), axis=0)
                    low = {"observation.state": qpos, "action": qpos}
                    writer.add_episode(
                        low, {key: [png] * STEPS for key in streams}, {key: [frame] for key in streams}, "press"
                    )
            part.replace(root)
    begun = time.process_time()
    for ref in list_episodes(root):
        with open_episode(ref) as episode:
            episode.image("tactile1", 3)
    yield "LeRobotDataset", _cost(begun)


def inspect(place: Path) -> Iterable[tuple[str, dict[str, float]]]:
    """Inspect all episodes by the command, which must not import torch."""
    begun = time.process_time()
    with redirect_stdout(io.StringIO()):
        run(["inspect", str(place)])
    assert "torch" not in sys.modules
    yield "inspect" if place.name.isdecimal() else "inspect, long", _cost(begun)


def _jobs(place: Path) -> tuple[list[object], Path]:
    from tactile_align.moments.cache import Job
    from tactile_align.moments.inputs import Input

    rig = load_rig("xtrainer").model_copy(update={"cameras": {}, "sensors": {}})
    inputs = (Input("top", "top", 16, 12), Input("tactile1", "tactile1", 16, 12))
    return [Job(ref, rig, inputs, True) for ref in list_episodes(place)], place.with_name(f"{place.name}.cache")


def prepare(place: Path) -> Iterable[tuple[str, dict[str, float]]]:
    """Prepare the episodes for training: facts and packed frames."""
    from tactile_align.moments.cache import prepare

    jobs, cache = _jobs(place)
    begun = time.process_time()
    prepare(jobs, cache, progress=False)  # type: ignore[arg-type]
    yield "prepare", _cost(begun)


def index(place: Path) -> Iterable[tuple[str, dict[str, float]]]:
    """Make the index of a training run from the prepared episodes."""
    from tactile_align.moments.dataset import Moments

    jobs, cache = _jobs(place)
    before, begun = _peak_mb(), time.process_time()
    moments = Moments(jobs, chunk=10, cache=cache, progress=False)  # type: ignore[arg-type]
    cost = _cost(begun)
    assert len(moments) == STEPS * len(jobs)
    yield "index", cost | {"grown MB": cost["peak MB"] - before}


PARTS = {"files": files, "listing": listing, "by_layout": by_layout, "lerobot": lerobot, "inspect": inspect}
PARTS |= {"prepare": prepare, "index": index}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, nargs="*", default=[100, 1000, 10000])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--long", type=int, default=0, help="also inspect one episode of this many rows")
    parser.add_argument("--here", action="store_true", help="run the parts on FOLDER itself, in this process")
    options = parser.parse_args(argv)
    if options.here:
        for part in options.parts:
            for line in PARTS[part](options.folder):
                print(json.dumps(line), flush=True)
        return 0
    results: dict[str, dict[int, dict[str, float]]] = {}
    places = {count: written(options.folder, count) for count in options.episodes}
    work = [(part, count, place) for part in options.parts for count, place in places.items()]
    if options.long:
        place = options.folder / f"long{options.long}"
        if not place.exists():
            record(place / "episode_init_0.hdf5", options.long)
        work.append(("inspect", options.long, place))
    for part, count, place in work:
        command = [sys.executable, "-m", "tests.benchmarks.scale", str(place), "--here", "--parts", part]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        for name, figures in map(json.loads, done.stdout.splitlines()):
            print(f"| {name} | {count:,} | " + " | ".join(f"{value:.3g} {what}" for what, value in figures.items()))
            results.setdefault(name, {})[count] = figures
    over = [line for name, figures in results.items() for line in judged(name, figures)]
    print("\n".join(over) or "every figure is within its bar")
    return int(bool(over))


def judged(name: str, figures: dict[int, dict[str, float]]) -> list[str]:
    """Print the line through the CPU seconds of one part, and return what is over a bar."""
    counts, seconds = np.array(list(figures)), np.array([each["CPU s"] for each in figures.values()])
    over = []
    if len(counts) > 1:
        slope, offset = np.polyfit(counts, seconds, 1)
        bend = (seconds[-1] / counts[-1]) / (seconds[-2] / counts[-2])
        print(f"{name}: {1e3 * slope:.3g} ms an episode + {offset:.2g} s; cost per episode x {bend:.2f} at the end")
        over += [f"{name} does not grow linearly: the cost per episode grew {bend:.2f} times"] if bend > BENT else []
    last = figures[int(counts[-1])]
    bars = {what: bar for (part, what), bar in BARS.items() if part == name}
    return over + [
        f"{name}: {last[what]:.3g} {what}, the bar is {bar:g}" for what, bar in bars.items() if last[what] > bar
    ]


if __name__ == "__main__":
    sys.exit(main())
