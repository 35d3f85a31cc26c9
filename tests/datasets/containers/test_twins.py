"""The same simulated episodes in every container give the same facts, the same verdicts and the same batches."""

import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from torch import Tensor

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets import codec
from tactile_align.datasets.containers.lerobot import export_lerobot
from tactile_align.datasets.episodes import list_episodes, open_episode, write_episode
from tactile_align.datasets.inspect import inspect_path
from tactile_align.evenly import evenly
from tactile_align.moments.batch import MomentBatch
from tactile_align.moments.cache import Job, packed_bytes, prepare
from tactile_align.moments.dataset import Moments
from tactile_align.moments.inputs import Input
from tactile_align.verify.verify import verify
from tests.conftest import shared_folder
from tests.datasets.containers.twins import buffer_of, lerobot_2, oxt_of, zarr_store

for library in ("pyarrow", "av", "zarr", "numcodecs"):
    pytest.importorskip(library, reason=f"{library} is not installed")
ROWS, SIZES = 12, {"top": (80, 60), "left_wrist": (96, 72), "tactile1": (48, 64)}
NAMES = {"top": "camera_main_rgb", "left_wrist": "left_wrist_camera_rgb", "tactile1": "left_tactile_data_gripper_0"}
"""Names of the streams in Open X-Tactile."""
LOSSLESS = ("lerobot 2 image", "lerobot 3 image", "zarr 2", "zarr 3", "zarr 2 zip", "zarr 3 zip", "oxt")
LOSSY = ("lerobot 2 video", "lerobot 3 video")


@pytest.fixture(scope="module")
def twins(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two short simulated episodes, made small, in every container; read only."""
    return places(shared_folder(tmp_path_factory, "twins", lambda folder: record(regrasp_folder, folder)))


def places(root: Path) -> dict[str, Path]:
    """Where `record` puts each container."""
    paths = {"hdf5": root / "hdf5", "oxt": root / "oxt.zarr"}
    for form in (2, 3):
        paths |= {f"zarr {form}": root / f"zarr{form}.zarr", f"zarr {form} zip": root / f"zarr{form}.zip"}
        paths |= {f"lerobot {form} {kind}": root / f"lerobot{form}{kind}" for kind in ("image", "video")}
    return paths


@pytest.fixture(scope="module")
def original(twins: dict[str, Path], regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Facts, verdicts and batch of the HDF5 episodes."""
    known = rig(regrasp_folder, "hdf5")
    moments = batch(twins["hdf5"], known, "hdf5", tmp_path_factory.mktemp("cache"))
    return facts(twins["hdf5"]), table(twins["hdf5"], known), dict(leaves(moments))


# `tests.benchmarks.twins` calls this and what follows with 20 episodes.
def record(simulated: Path, root: Path, episodes: int = 2, spread: bool = False) -> None:
    """Write the first rows of episodes, or with `spread` as many rows of the whole episode, to every container."""
    source = root / "hdf5"
    for i, ref in enumerate(list_episodes(simulated)[:episodes]):
        with open_episode(ref) as episode:
            rows = evenly(len(episode), ROWS) if spread else np.arange(ROWS)
            small = {n: [codec.encode_png(resized(episode.image(n, int(t)), n)) for t in rows] for n in SIZES}
            touches = {"tactile1": small.pop("tactile1")}
            low = {"qpos": episode.qpos[rows], "action": episode.action[rows]}
            write_episode(source / f"episode_init_{i}.hdf5", **low, images=small, touches=touches, fps=5)
    arrays, ends = buffer_of(source)
    for form in (2, 3):
        for name in (f"zarr{form}.zarr", f"zarr{form}.zip"):
            zarr_store(root / name, arrays, ends, form, chunk=5, attributes={"fps": 5})
    zarr_store(root / "oxt.zarr", oxt_of(arrays), ends, attributes={"fps": 5})
    for kind in ("image", "video"):
        lerobot_2(source, root / f"lerobot2{kind}", 5, kind)
        export_lerobot(source, root / f"lerobot3{kind}", cameras=kind, fps=5)


def resized(frame: np.ndarray, name: str) -> np.ndarray:
    return cv2.resize(frame, SIZES[name], interpolation=cv2.INTER_AREA)


def rig(simulated: Path, container: str) -> Rig:
    """The cell's rig for the small frames, with the names of streams that a container uses."""
    known = load_rig(simulated / "rig.toml")
    for camera in known.cameras:
        known = known.with_camera(camera, image_map=(("resize", *SIZES[camera]),))
    if container != "oxt":
        return known
    data = known.model_dump(exclude_none=True)
    data["cameras"] = {NAMES[name]: camera for name, camera in data["cameras"].items()}
    data["sensors"]["tactile1"]["stream"] = NAMES["tactile1"]
    return Rig.model_validate(data)


def renamed(text: str) -> str:
    """A text with the streams and episodes that only Open X-Tactile and HDF5 call by other names."""
    for usual, other in NAMES.items():
        text = text.replace(other, usual)
    return text.replace("episode_init_", "episode_").replace(".hdf5", "")


def facts(path: Path) -> list[Any]:
    """What `inspect` finds in the episodes, without how the container stores it."""
    inspection = inspect_path(path, timing=False)
    assert not inspection.faults
    assert not [fault for episode in inspection.episodes for fault in episode.faults]
    found = []
    for e in inspection.episodes:
        streams = sorted(
            (renamed(s.name), s.role, s.width, s.height, s.repeated, s.rgb, s.contact_share, s.contacts, s.evidence)
            for s in e.streams
        )
        found.append((e.steps, e.fps, e.joints, e.actions, e.qvel, e.distinct, streams))
    return found


@pytest.mark.parametrize("container", LOSSLESS)
def test_inspect_finds_the_same_facts(twins: dict[str, Path], original: Any, container: str) -> None:
    assert facts(twins[container]) == original[0]


def table(path: Path, known: Rig) -> dict[str, tuple[str, float | None]]:
    """Status and value of each check of `verify`."""
    report = verify(path, known, progress=False)
    return {renamed(check.id).rpartition("#")[2]: (check.status, check.value) for check in report.checks}


@pytest.mark.parametrize("container", LOSSLESS)
def test_verify_gives_the_same_table(
    twins: dict[str, Path], regrasp_folder: Path, original: Any, container: str
) -> None:
    require_same_table(table(twins[container], rig(regrasp_folder, container)), original[1])


def require_same_table(theirs: dict[str, tuple[str, float | None]], ours: dict[str, tuple[str, float | None]]) -> None:
    assert theirs.keys() == ours.keys() and len(ours) > 5
    for id, (status, value) in ours.items():
        assert theirs[id][0] == status
        assert theirs[id][1] == pytest.approx(value, abs=1e-9, nan_ok=True)


def batch(path: Path, known: Rig, container: str, cache: Path) -> MomentBatch:
    """All moments of the episodes, with the whole wrist frame, the touch and their box."""
    wrist, touch = (NAMES[n] if container == "oxt" else n for n in ("left_wrist", "tactile1"))
    inputs = Input("view", wrist, 48, 32, sensor="tactile1"), Input("tactile1", touch, 48, 32)
    jobs = [Job(ref, known, inputs, packed=container == "zarr 3") for ref in list_episodes(path)]
    moments = Moments(jobs, chunk=3, cache=cache, progress=False)
    return moments.batch(np.arange(len(moments)))


def leaves(part: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a batch by their names."""
    if is_dataclass(part):
        for field in fields(part):
            yield from leaves(getattr(part, field.name), f"{name}.{field.name}")
    elif isinstance(part, dict):
        for key, value in part.items():
            yield from leaves(value, f"{name}.{key}")
    elif isinstance(part, Tensor):
        yield name, part.numpy()


@pytest.mark.parametrize("container", (*LOSSLESS, *LOSSY))
def test_training_batches_are_equal_bit_for_bit(
    twins: dict[str, Path], regrasp_folder: Path, original: Any, tmp_path: Path, container: str
) -> None:
    theirs = dict(leaves(batch(twins[container], rig(regrasp_folder, container), container, tmp_path)))
    require_same_batch(theirs, dict(original[2]), container)


def require_same_batch(theirs: dict[str, Any], ours: dict[str, Any], container: str) -> None:
    assert ours.keys() == theirs.keys() and any("box" in name for name in ours)
    if container == "oxt":  # its actions are the next states
        ours, theirs = ({k: v for k, v in table.items() if "action" not in k} for table in (ours, theirs))
    if container in LOSSY:
        view = next(name for name in ours if "view" in name and name.endswith("image"))
        assert np.abs(ours.pop(view).astype(float) - theirs.pop(view)).mean() < 3
    for name, values in ours.items():
        np.testing.assert_array_equal(theirs[name], values, err_msg=name)


@pytest.mark.parametrize("container", ["hdf5", "zarr 2 zip", "lerobot 2 image"])
def test_the_size_of_the_cache_is_predicted_to_the_byte_and_refused_where_it_does_not_fit(
    twins: dict[str, Path], regrasp_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str
) -> None:
    inputs = Input("view", "left_wrist", 48, 32, sensor="tactile1"), Input("tactile1", "tactile1", 48, 32)
    known = rig(regrasp_folder, container)
    jobs = [Job(ref, known, inputs, packed=True) for ref in list_episodes(twins[container])]
    needed = sum(map(packed_bytes, jobs))
    room = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    with monkeypatch.context() as full, pytest.raises(OSError, match=r"frames of 2 episodes need 0 MB, but 0 MB are"):
        full.setattr(shutil, "disk_usage", lambda path: room)
        prepare(jobs, tmp_path / "full", progress=False)
    assert not list((tmp_path / "full").iterdir())
    folders = prepare(jobs, tmp_path / "cache", progress=False)
    assert sum(file.stat().st_size for folder in folders for file in folder.glob("*.npy")) == needed
