"""Check our LeRobotDataset files against the package `lerobot` itself, which needs an environment of its own.

    python3.12 -m venv lerobot-env
    lerobot-env/bin/pip install "lerobot[dataset]==0.6.1"
    python tests/interop/lerobot_check.py ours WORK                            # our environment: export
    lerobot-env/bin/python tests/interop/lerobot_check.py lerobot WORK         # lerobot: read ours, write its own
    python tests/interop/lerobot_check.py compare WORK                         # our environment: read lerobot's

lerobot decodes video with PyAV; `lerobot WORK torchcodec` names another back end. lerobot 0.4.4 lacks depth maps, which
are then left out. The output of a run with each is kept in lerobot_check.txt.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

STEPS, WIDTH, HEIGHT, FPS = (9, 12, 11), 128, 96, 10
STORED = {"video": ("video", "image"), "lossless": ("lossless", "lossless"), "image": ("image", "image")}
"""Storage of cameras and touches of each data set that is exported."""


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


def distances(seed: int, steps: int) -> np.ndarray:
    """(steps, HEIGHT, WIDTH) uint16, mm."""
    return (400 + 2.0 * smooth(200 + seed, steps)[..., 0]).astype(np.uint16)


def ours(work: Path) -> None:
    from tactile_align.datasets.containers.any_format import convert
    from tactile_align.datasets.episodes import write_episode

    for i, steps in enumerate(STEPS):
        write_episode(
            work / "episodes" / f"episode_{i}.hdf5",
            qpos=low(i, steps),
            action=-low(i, steps),
            images={"top": smooth(i, steps)},
            touches={"tactile1": smooth(50 + i, steps)},
            attributes={"task": f"task {i % 2}"},
            fps=FPS,
            layout="aloha",
        )
    for form, (cameras, touches) in STORED.items():
        done = convert(work / "episodes", work / f"ours_{form}", "lerobot", "aloha", cameras=cameras, touches=touches)
        print(f"ours -> LeRobot v3.0, cameras {cameras}, touches {touches}: {'; '.join(done.lossy) or 'nothing lost'}")
        np.save(work / f"ours_{form}.npy", read(work / f"ours_{form}", "top"))


def read(path: Path, name: str) -> np.ndarray:
    """All frames of a stream of a data set as we read them in place."""
    from tactile_align.datasets.episodes import list_episodes, open_episode

    frames = []
    for ref in list_episodes(path):
        with open_episode(ref) as episode:
            frames += [episode.image(name, t) for t in range(len(episode))]
    return np.stack(frames)


def lerobot(work: Path, backend: str = "pyav") -> None:
    import lerobot as package
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    rows = [(i, t) for i, steps in enumerate(STEPS) for t in range(steps)]
    state = np.concatenate([low(i, steps) for i, steps in enumerate(STEPS)])
    shown = {"top": np.concatenate([smooth(i, n) for i, n in enumerate(STEPS)])}
    shown["tactile1"] = np.concatenate([smooth(50 + i, n) for i, n in enumerate(STEPS)])
    print(f"lerobot {package.__version__} reads ours, video with {backend}:")
    for form in STORED:
        data = LeRobotDataset("ours/set", root=work / f"ours_{form}", video_backend=backend)
        assert len(data) == len(rows)
        items: list[dict[str, Any]] = [data[k] for k in range(len(rows))]
        for item, (i, t) in zip(items, rows, strict=True):
            assert (int(item["episode_index"]), int(item["frame_index"])) == (i, t)
            assert item["task"] == f"task {i % 2}"
        off = max(
            np.abs(np.stack([k[key].numpy() for k in items]) - v).max()
            for key, v in (("observation.state", state), ("action", -state))
        )
        frames = {name: np.stack([pixels(k[f"observation.images.{name}"]) for k in items]) for name in shown}
        differ = int((frames["tactile1"] != shown["tactile1"]).any((1, 2, 3)).sum())
        worst = min(map(psnr, frames["top"], shown["top"]))
        apart = np.abs(frames["top"].astype(int) - np.load(work / f"ours_{form}.npy")).max()
        print(
            f"  {form}: {len(rows)} frames, state and action off by {off:g}, {differ} touches differ, "
            f"top >= {worst:.1f} dB, at most {apart} grey levels from the frames that we decode"
        )
        stats, true = data.meta.stats, {"min": state.min(0), "max": state.max(0), "mean": state.mean(0)}
        true["std"] = state.std(0)
        error = max(float(np.abs(stats["observation.state"][name] - value).max()) for name, value in true.items())
        colour = (frames["top"] / 255).mean((0, 1, 2))
        error_of_colour = float(np.abs(np.ravel(stats["observation.images.top"]["mean"]) - colour).max())
        print(f"    statistics: state off by {error:.1g}, mean colour of top by {error_of_colour:.1g} of 1")
    shape = {"dtype": "float32", "shape": (7,), "names": None}
    with_depth = not package.__version__.startswith("0.4")
    for form in ("video", "image"):
        image = {"dtype": form, "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
        features = {"observation.state": shape, "action": shape, "observation.images.top": image}
        features["observation.images.tactile1"] = {**image, "dtype": "image"}
        if with_depth:
            depth = {"dtype": form, "shape": (HEIGHT, WIDTH, 1), "info": {"is_depth_map": True}}
            features["observation.images.far"] = {**depth, "names": ["height", "width", "channels"]}
        made = LeRobotDataset.create("its/set", fps=FPS, features=features, root=work / f"its_{form}")
        for i, t in rows:
            frame = {"observation.state": low(i, STEPS[i])[t], "action": -low(i, STEPS[i])[t], "task": f"task {i % 2}"}
            frame["observation.images.top"] = smooth(i, STEPS[i])[t]
            frame["observation.images.tactile1"] = smooth(50 + i, STEPS[i])[t]
            if with_depth:
                frame["observation.images.far"] = distances(i, STEPS[i])[t][..., None]
            made.add_frame(frame)
            if t == STEPS[i] - 1:
                made.save_episode()
        made.finalize()
        again = LeRobotDataset("its/set", root=work / f"its_{form}", video_backend=backend)
        items = [again[k] for k in range(len(rows))]
        np.save(work / f"its_{form}.npy", np.stack([pixels(k["observation.images.top"]) for k in items]))
        if with_depth:  # mm
            far = np.stack([k["observation.images.far"].numpy()[0] for k in items])
            np.save(work / f"its_{form}_far.npy", far)


def compare(work: Path) -> None:
    from tactile_align.datasets.containers.lerobot import import_lerobot
    from tactile_align.datasets.episodes import list_episodes, open_episode

    print("ours reads lerobot's:")
    for form in ("video", "image"):
        done = import_lerobot(work / f"its_{form}", work / f"back_{form}", to="aloha")
        worst, touch, joints = np.inf, 0, 0.0
        refs = list_episodes(work / f"its_{form}")
        for i, (ref, path, steps) in enumerate(zip(refs, done.paths, STEPS, strict=True)):
            for episode in (open_episode(path, "aloha"), open_episode(ref)):  # the copy, and in place
                assert len(episode) == steps
                assert episode.attributes["task"] == f"task {i % 2}"
                joints = max(joints, float(np.abs(episode.qpos - low(i, steps)).max()))
                for t in range(steps):
                    worst = min(worst, psnr(episode.image("top", t), smooth(i, steps)[t]))
                    touch += not np.array_equal(episode.image("tactile1", t), smooth(50 + i, steps)[t])
        apart = np.abs(read(work / f"its_{form}", "top").astype(int) - np.load(work / f"its_{form}.npy")).max()
        print(
            f"  {form}: {sum(STEPS)} frames, joints off by {joints:g}, {touch} touches differ, top >= {worst:.1f} dB, "
            f"at most {apart} grey levels from the frames that lerobot decodes"
        )
        if (work / f"its_{form}_far.npy").exists():
            far = []
            for ref in refs:
                with open_episode(ref) as episode:
                    far += [episode.depth_image("far_depth", t) for t in range(len(episode))]
            mm = np.stack(far).astype(float) * (1000 if far[0].dtype == np.float32 else 1)
            true = np.concatenate([distances(i, n) for i, n in enumerate(STEPS)])
            apart_mm = np.abs(mm - np.load(work / f"its_{form}_far.npy")).max()
            print(
                f"    depth: {np.abs(mm - true).max():.2f} mm from the truth, {apart_mm:.2f} mm from lerobot's reading"
            )


def pixels(tensor: Any) -> np.ndarray:
    return np.asarray((tensor.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


if __name__ == "__main__":
    {"ours": ours, "lerobot": lerobot, "compare": compare}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
