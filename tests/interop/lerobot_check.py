"""Check our LeRobotDataset files against the package `lerobot` itself, which needs an environment of its own.

    python3.11 -m venv lerobot-env
    lerobot-env/bin/pip install "lerobot==0.4.4" "torch<2.11"
    python tests/interop/lerobot_check.py ours WORK                     # our environment: export, keep the
    frames lerobot-env/bin/python tests/interop/lerobot_check.py lerobot WORK  # lerobot: read ours, write one
    of its own python tests/interop/lerobot_check.py compare WORK                  # our environment: import
    lerobot's

Each step prints what it found; the last output is kept in lerobot_check.txt.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

STEPS, WIDTH, HEIGHT = (9, 12, 11), 128, 96


def smooth(seed: int, steps: int) -> np.ndarray:
    """(steps, HEIGHT, WIDTH, 3) uint8: a smooth coloured pattern that moves."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    phase, tilt = rng.uniform(0, 6, 3), rng.uniform(0.02, 0.08, (3, 2))
    t = np.arange(steps)[:, None, None]
    waves = [127 + 110 * np.sin(tilt[c, 0] * u + tilt[c, 1] * v + phase[c] + 0.2 * t) for c in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def low(seed: int, steps: int) -> np.ndarray:
    """(steps, 7) float32."""
    return np.random.default_rng(100 + seed).normal(size=(steps, 7)).astype(np.float32)


def ours(work: Path) -> None:
    from tactile_align.datasets.containers.lerobot import export_lerobot
    from tactile_align.datasets.episodes import write_episode

    for i, steps in enumerate(STEPS):
        write_episode(
            work / "episodes" / f"episode_{i}.hdf5",
            qpos=low(i, steps),
            action=-low(i, steps),
            images={"top": smooth(i, steps)},
            touches={"tactile1": smooth(50 + i, steps)},
            attributes={"task": f"task {i % 2}"},
            fps=10,
            layout="aloha",
        )
    for form in ("video", "image"):
        done = export_lerobot(
            work / "episodes", work / f"ours_{form}", cameras=form, robot_type="nova2", layout="aloha"
        )
        print(f"ours -> LeRobot v3.0, cameras as {form}: {'; '.join(done.lossy) or 'nothing lost'}")


def lerobot(work: Path) -> None:
    import lerobot as package
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    print(f"lerobot {package.__version__} reads ours:")
    for form in ("video", "image"):
        data = LeRobotDataset("ours/set", root=work / f"ours_{form}", video_backend="pyav")
        index, worst, state, touch = 0, np.inf, 0.0, 0
        for i, steps in enumerate(STEPS):
            for t in range(steps):
                item: dict[str, Any] = data[index]
                assert (int(item["episode_index"]), int(item["frame_index"])) == (i, t)
                assert item["task"] == f"task {i % 2}"
                state = max(state, float(np.abs(item["observation.state"].numpy() - low(i, steps)[t]).max()))
                worst = min(worst, psnr(pixels(item["observation.images.top"]), smooth(i, steps)[t]))
                touch += not np.array_equal(pixels(item["observation.images.tactile1"]), smooth(50 + i, steps)[t])
                index += 1
        assert index == len(data)
        print(f"  {form}: {index} frames, state off by {state:g}, {touch} touches differ, top >= {worst:.1f} dB")
    print(f"  statistics: {', '.join(sorted(data.meta.stats))}")
    shape = {"dtype": "float32", "shape": (7,), "names": None}
    for form in ("video", "image"):
        image = {"dtype": form, "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
        features = {"observation.state": shape, "action": shape, "observation.images.top": image}
        features["observation.images.tactile1"] = {**image, "dtype": "image"}
        made = LeRobotDataset.create("its/set", fps=10, features=features, root=work / f"its_{form}")
        for i, steps in enumerate(STEPS):
            for t in range(steps):
                frame = {"observation.state": low(i, steps)[t], "action": -low(i, steps)[t], "task": f"task {i % 2}"}
                frame["observation.images.top"] = smooth(i, steps)[t]
                made.add_frame({**frame, "observation.images.tactile1": smooth(50 + i, steps)[t]})
            made.save_episode()
        made.finalize()


def compare(work: Path) -> None:
    from tactile_align.datasets.containers.lerobot import import_lerobot
    from tactile_align.datasets.episodes import open_episode

    print("ours reads lerobot's:")
    for form in ("video", "image"):
        done = import_lerobot(work / f"its_{form}", work / f"back_{form}", to="aloha")
        worst, touch, joints = np.inf, 0, 0.0
        for i, (path, steps) in enumerate(zip(done.paths, STEPS, strict=True)):
            with open_episode(path, "aloha") as episode:
                assert len(episode) == steps
                assert episode.attributes["task"] == f"task {i % 2}"
                joints = max(joints, float(np.abs(episode.qpos - low(i, steps)).max()))
                for t in range(steps):
                    worst = min(worst, psnr(episode.image("top", t), smooth(i, steps)[t]))
                    touch += not np.array_equal(episode.image("tactile1", t), smooth(50 + i, steps)[t])
        print(f"  {form}: {sum(STEPS)} frames, joints off by {joints:g}, {touch} touches differ, top >= {worst:.1f} dB")


def pixels(tensor: Any) -> np.ndarray:
    return np.asarray((tensor.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


if __name__ == "__main__":
    {"ours": ours, "lerobot": lerobot, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
