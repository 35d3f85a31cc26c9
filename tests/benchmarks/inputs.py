"""Print how readers answer random spellings and damage of the same facts: `python -m tests.benchmarks.inputs`.

`python -m tests.benchmarks.inputs [GENERATOR [FIRST [COUNT]]]`: 300 inputs of each generator from seed 1000 on, or of
the one named; seeds below 1000 are those of the tests and of mending. An answer is right if it is the value of the
source, or, for a damaged input, one error that names the file. Each wrong answer is printed with its seed. Exits 1 if
there is one.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.formats import read_opencv, read_ros_camera
from tactile_align.datasets.episodes import open_episode
from tactile_align.datasets.inspect import inspect_path
from tactile_align.errors import EpisodeError, InputError
from tests.calibration import writing
from tests.datasets.making import xtrainer_file

FIRST, COUNT = 1000, 300


def yaml_dialect(folder: Path, rng: np.random.Generator) -> str:
    """Return what is wrong with the answer to a random YAML dialect of a camera, damaged in a third of the inputs."""
    K = np.array([[rng.uniform(300, 900), 0, rng.uniform(200, 400)], [0, rng.uniform(300, 900), 200], [0, 0, 1]])
    camera = Camera("wrist", 640, 472, np.round(K, 3), "brown", tuple(np.round(rng.normal(0, 0.002, 5), 4).tolist()))
    kind, path = str(rng.choice(["ros_camera", "opencv"])), folder / "camera.yaml"
    getattr(writing, f"write_{kind}")(camera, path)
    text = path.read_text(encoding="utf-8")
    damage = DAMAGES[rng.integers(len(DAMAGES))] if rng.random() < 1 / 3 else None
    text = damage(text) if damage else text
    text = text.replace("%YAML:1.0", str(rng.choice(["%YAML:1.0", "%YAML:1.0 # mine", "%YAML 1.0", "# a\n%YAML:1.0"])))
    for spelling in rng.permutation(len(SPELLINGS))[: rng.integers(4)]:
        text = SPELLINGS[spelling](text)
    path.write_bytes(text.encode())
    try:
        found = {"ros_camera": read_ros_camera, "opencv": read_opencv}[kind](path)
    except InputError as error:
        return "" if damage and str(path) in str(error) else f"refused: {error}"
    same = np.array_equal(found.K, camera.K) and found.distortion == camera.distortion and found.width == camera.width
    return "" if same and damage is None else f"read as {found}, though {'damaged' if damage else 'another camera'}"


SPELLINGS: list[Callable[[str], str]] = [
    lambda text: text.replace("\n", "\r\n"),
    lambda text: "\ufeff" + text,
    lambda text: text.replace("image_width: 640\n", "image_width: 640.0\n"),
    lambda text: text.replace("image_width: 640\n", 'image_width: "640"\n'),
    lambda text: text.replace("image_width: 640\n", "image_width:   640  # px\n"),
    lambda text: text.replace("image_width: 640\n", "image_width: 6.4e2\n"),
    lambda text: text.replace("200.0", "2.e2").replace("200.", "2.e2"),
    lambda text: text + "\n\n# end\n",
    lambda text: text + "avg_reprojection_error: 0.2\n",
]
DAMAGES: list[Callable[[str], str]] = [
    lambda text: text.replace("image_width: 640", "image_width: .nan"),
    lambda text: text.replace("image_width: 640", "image_width: 640.5"),
    lambda text: text.replace("image_width: 640", "image_width: -640"),
    lambda text: text.replace("image_width: 640", "image_width: wide"),
    lambda text: text.replace("image_width: 640", "image_width:"),
    lambda text: text.replace("image_width: 640", "width: 640"),
    lambda text: text.replace("camera_matrix", "camera_matrx"),
    lambda text: text.replace("472", "[472, 3]", 1),
    lambda text: text.replace("image_width: 640", "image_width: 640\nimage_width: 320"),
    lambda text: text[: text.index("camera_matrix") + 40],
    lambda text: text.replace("image_width: 640", "image_width: 640\n\tbad: 1"),
    lambda text: text.replace("image_width: 640", "image_width: 640\x00"),
]


def rate(folder: Path, rng: np.random.Generator) -> str:
    """Return what is wrong with the answer to a random spelling of a rate, which is no rate in half of the inputs."""
    path, fps = folder / "episode_init_0.hdf5", float(rng.choice([5, 10, 29.97, 30, 50, 120]))
    path = path if path.exists() else xtrainer_file(folder)
    text = str(fps)
    sound: list[Any] = [fps, [fps], [[fps]], text, text.encode(), [fps] * 3, f" {fps} ", [text]]
    bad: list[Any] = ["", "fast", np.nan, np.inf, 0, -fps, [fps, fps + 1], np.zeros(0), True, 1j, f"{fps} Hz", [np.nan]]
    is_sound = bool(rng.integers(2))
    stated = (sound if is_sound else bad)[rng.integers(len(sound if is_sound else bad))]
    with h5py.File(path, "r+") as file:
        file.attrs["fps"] = stated
    try:
        with open_episode(path) as episode:
            found = episode.fps
    except EpisodeError as error:
        return "" if not is_sound and f"{path}: " in str(error) and "fps" in str(error) else f"{stated!r}: {error}"
    if is_sound:
        return "" if found == fps else f"{stated!r} is read as {found}"
    named = "the attribute fps" in inspect_path(path, timing=False).report.text()
    return "" if found is None and named else f"{stated!r} is read as {found}, {'named' if named else 'not named'}"


OWN = {"yaml": yaml_dialect, "rates": rate}
MODULES = {
    "cells": "datasets.containers.spelt_cells",
    "attributes": "datasets.spelt_attributes",
    "weights": "features.spelt_weights",
    "poses": "sessions.spelt_poses",
}
"""Modules of `tests` with a function `fault_of`, by the generator's name, imported on use because torch is slow."""
GENERATORS = (*OWN, *MODULES)


def wrong(name: str, seeds: range) -> list[str]:
    """Return the wrong answers to the inputs of a generator, each with its seed."""
    out = []
    fault_of: Callable[[Path, np.random.Generator], str] = (
        OWN[name] if name in OWN else import_module(f"tests.{MODULES[name]}").fault_of
    )
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            try:
                fault = fault_of(Path(folder), np.random.default_rng(seed))
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                OSError,
                RuntimeError,
                TypeError,
                ValueError,
            ) as error:
                fault = f"{type(error).__name__}: {error}"
            out += [f"{name} {seed}: {fault}"] if fault else []
    return out


def main(names: list[str], first: int, count: int) -> int:
    """Print the table and the wrong answers; return 1 if there is one."""
    faults = []
    print("| generator | inputs | wrong | seconds |\n|---|---:|---:|---:|")
    for name in names:
        began = time.process_time()
        faults += (found := wrong(name, range(first, first + count)))
        print(f"| {name} | {count} | {len(found)} | {time.process_time() - began:.1f} |", flush=True)
    print(*faults, sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    chosen = sys.argv[1:2] or list(GENERATORS)
    sys.exit(main(chosen, int((sys.argv[2:3] or [FIRST])[0]), int((sys.argv[3:4] or [COUNT])[0])))
