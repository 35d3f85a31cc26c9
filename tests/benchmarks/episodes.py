"""How fast moments are read, against the way the original reads them.

    python -m tests.benchmarks.episodes [--steps 800] [--items 200]

One process, one thread, an X-Trainer episode with three cameras (640x480) and one touch (320x240, portrait).
An item is joints, a chunk of 45 actions and the four frames. CPU seconds, because other work shares the
machine. The packed cache is read as training reads it, 16 items at a time, frames at 224x224.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import h5py
import numpy as np
import simplejpeg

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import Episode, EpisodeRef, open_episode, write_episode
from tactile_align.moments.cache import Job
from tactile_align.moments.dataset import Moments
from tactile_align.moments.inputs import Input

CHUNK = 45
CAMERAS, TOUCH = ("top", "left_wrist", "right_wrist"), "tactile1"
WANTED = {(50, 1): 3.3, (50, 2): 5.0, (95, 1): 1.9, (95, 2): 2.1}  # times the original, by JPEG quality and reduction

PACKED_WANTED, SIDE, BATCH = 15.0, 224, 16


def scenes(steps: int, width: int, height: int, seed: int) -> np.ndarray:
    """A few camera-like frames, repeated: structure at several scales and a little sensor noise."""
    rng = np.random.default_rng(seed)
    few = []
    for _ in range(8):
        frame = np.zeros((height, width, 3), np.float32)
        for cells, weight in ((6, 60), (24, 25), (96, 10)):
            part = rng.uniform(-1, 1, (cells * height // width, cells, 3)).astype(np.float32)
            frame += weight * cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC)
        few.append((128 + frame + rng.normal(0, 2, frame.shape)).clip(0, 255).astype(np.uint8))
    return np.stack([few[t % 8] for t in range(min(steps, 8))])


def record(path: Path, steps: int, quality: int) -> Path:
    """Write the episode; the touch at the cameras' quality, as the original does."""
    size = {name: (640, 480) for name in CAMERAS} | {TOUCH: (240, 320)}
    few = {name: scenes(steps, *wh, seed) for seed, (name, wh) in enumerate(size.items())}
    coded = {
        name: [simplejpeg.encode_jpeg(f, quality, "RGB", "420", fastdct=False) for f in frames]
        for name, frames in few.items()
    }
    rows = {name: [data[t % len(data)] for t in range(steps)] for name, data in coded.items()}
    low = np.random.default_rng(0).normal(size=(steps, 14))
    images = {name: rows[name] for name in CAMERAS}
    return write_episode(path, qpos=low, action=low, images=images, touches={TOUCH: rows[TOUCH]})


def original(path: Path, t: int) -> tuple[np.ndarray, ...]:
    """One item as the original reads it: open, read all actions, decode with OpenCV, stack, float32 / 255."""
    with h5py.File(path, "r") as file:
        action = file["/action"][()][t : t + CHUNK]
        qpos = file["/observations/qpos"][t]
        frames = [cv2.imdecode(file[f"/observations/images/{name}"][t], 1) for name in CAMERAS]
        touch = cv2.imdecode(file[f"/observations/{TOUCH}"][t], 1)
    stacked = np.einsum("khwc->kchw", np.stack(frames)).astype(np.float32) / 255.0
    return qpos.astype(np.float32), action.astype(np.float32), stacked, touch.astype(np.float32) / 255.0


def ours(episode: Episode, t: int, reduce: int) -> tuple[np.ndarray, ...]:
    """The same item: joints from memory, frames uint8."""
    frames = []
    for name in (*CAMERAS, TOUCH):
        width, height = episode.width_height(name)
        frames.append(episode.image(name, t, None if reduce == 1 else (width // reduce, height // reduce)))
    return episode.qpos[t], episode.action[t : t + CHUNK], *frames


def bare(rows: dict[str, list[bytes]], t: int, reduce: int) -> None:
    """Only the decoding, from bytes in memory."""
    for data in rows.values():
        height, width, _, _ = simplejpeg.decode_jpeg_header(data[t])
        if reduce == 1:
            simplejpeg.decode_jpeg(data[t], "RGB")
        else:
            simplejpeg.decode_jpeg(data[t], "RGB", min_width=width // reduce, min_height=height // reduce)


def cpu_seconds(item: Callable[[int], object], order: np.ndarray, rounds: int = 3) -> float:
    """Least CPU seconds an item over several rounds: interruptions only ever add."""
    best = np.inf
    for _ in range(rounds):
        begun = time.process_time()
        for t in order:
            item(int(t))
        best = min(best, (time.process_time() - begun) / len(order))
    return best


def packed_moments(path: Path, cache: Path) -> Moments:
    """Return the episode with its four frames packed at the encoder's size."""
    inputs = tuple(Input(name, name, SIDE, SIDE) for name in (*CAMERAS, TOUCH))
    joints = {"columns": list(range(6)), "unit": "rad"}
    pose = {"parent": "world", "translation_m": [0, 0, 0], "quat_wxyz": [1, 0, 0, 0]}
    rig = Rig.model_validate({"name": "no cameras", "arms": {"left": {"model": "nova2", "joints": joints, **pose}}})
    job = Job(EpisodeRef(path), rig, inputs, packed=True)
    return Moments([job], chunk=CHUNK, cache=cache, progress=False)


def packed_row(path: Path, cache: Path, was: float, order: np.ndarray) -> bool:
    """Print how the packed cache does against the original; whether it does well enough."""
    begun = time.process_time()
    moments = packed_moments(path, cache)
    built = time.process_time() - begun
    batches = order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
    now = cpu_seconds(lambda n: moments.batch(batches[n].tolist()), np.arange(len(batches))) / BATCH
    good = was / now >= PACKED_WANTED
    size = sum(file.stat().st_size for file in moments.folders[0].glob("*.npy"))
    frames = len(moments) * (len(CAMERAS) + 1)
    print(
        f"         packed {SIDE}x{SIDE}: {now * 1e3:.3f} ms, {was / now:.1f} times the original ({PACKED_WANTED:g})"
        f"{'' if good else '  MISSED'}; {size / frames:,.0f} bytes a frame, "
        f"against {path.stat().st_size / frames:,.0f} in the episode; built in {built:.1f} s"
    )
    return good


def main() -> int:
    """Print the table; 1 if a row misses its mark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--items", type=int, default=200)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    order = np.random.default_rng(1).integers(0, args.steps - CHUNK, args.items)
    missed = 0
    print("quality  size  original ms  ours ms  bare decoding ms  times faster (wanted)  of bare decoding")
    with TemporaryDirectory() as folder:
        for quality in (50, 95):
            path = record(Path(folder) / f"q{quality}.hdf5", args.steps, quality)
            episode = open_episode(path)
            names = (*CAMERAS, TOUCH)
            rows = {name: [episode.encoded(name, t) or b"" for t in range(args.steps)] for name in names}
            was = cpu_seconds(lambda t, path=path: original(path, t), order)  # type: ignore[misc]
            for reduce in (1, 2):
                now = cpu_seconds(lambda t, e=episode, r=reduce: ours(e, t, r), order)  # type: ignore[misc]
                least = cpu_seconds(lambda t, d=rows, r=reduce: bare(d, t, r), order)  # type: ignore[misc]
                good = was / now >= WANTED[quality, reduce] and now / least <= 1.15
                missed += not good
                print(
                    f"{quality:7}  1/{reduce}  {was * 1e3:11.2f}  {now * 1e3:7.2f}  {least * 1e3:16.2f}"
                    f"  {was / now:12.2f} ({WANTED[quality, reduce]})  "
                    f"{now / least:16.2f}{'' if good else '  MISSED'}"
                )
            frames = np.stack([episode.image(name, 0) for name in CAMERAS])
            moved = cpu_seconds(lambda t, f=frames: f.astype(np.float32) / 255.0, order[:40])  # type: ignore[misc]
            print(f"         float32 / 255 of three frames, now the device's work: {moved * 1e3:.2f} ms")
            missed += not packed_row(path, Path(folder) / "cache", was, order)
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
