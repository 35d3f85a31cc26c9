"""Recording of simulated episodes, in parallel, in the X-Trainer layout, with ground truth.

Every episode has its own seed, (seed, index), so its bytes do not depend on the process or the time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from tqdm import tqdm

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.codec import encode_jpeg
from tactile_align.datasets.episodes import read_attributes, write_episode
from tactile_align.datasets.handles import open_file
from tactile_align.errors import InputError
from tactile_align.simulation import tasks
from tactile_align.simulation.looks import draw_look
from tactile_align.simulation.raycast import Floats
from tactile_align.simulation.world import PHASES, Step, World
from tactile_align.workers import in_processes

Task = Literal["expert", "regrasp", "mixed"]
Reading = Literal["commanded", "measured"]
TOUCH_QUALITY, CAMERA_QUALITY = 95, 90  # touches need fine texture; a camera's rows are padded to the longest
_EXPERT_EVERY = 4  # of a mixed recording, this many episodes hold one of the expert


@dataclass(frozen=True)
class _Job:
    path: Path
    index: int
    seed: int
    task: Literal["expert", "regrasp"]
    gripper: Reading

    @property
    def identity(self) -> dict[str, Any]:
        """The attributes by which an existing file is recognised as this job's."""
        return {f"simulated_{key}": getattr(self, key) for key in ("task", "gripper", "seed", "index")}


def simulate(
    out: str | Path,
    *,
    episodes: int,
    seed: int = 0,
    task: Task = "regrasp",
    gripper: Reading = "commanded",
    processes: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Record episodes of the shipped cell into a folder, as OUT/episode_init_<i>.hdf5, and its rig as OUT/rig.toml.

    Finished episodes in the folder are kept, so an interrupted recording resumes. The group `truth`
    of each file, which no training reads, holds box/<camera> (T, 4) amodal sensor boxes in stored pixels,
    unoccluded/<camera> (T,), contact (T,), contact_index (T,), indentation (T,) m, opening (T, 2) m, thing (T, 3) m,
    phase (T,) index into the attribute `phases`, and touch_reference, the noise-free no-contact reference.

    Args:
        out: The folder; created when missing.
        episodes: Number of episodes in it afterwards.
        seed: The same seed gives the same bytes on the same machine and versions, whatever `processes` is.
        task: "expert" (physics: grasp and lift, 10 frames a second), "regrasp" (posed contacts, 5 frames a second) or
            "mixed" (every fourth an expert's).
        gripper: The last column of qpos: "commanded": the last command, as in X-Trainer recordings; "measured":
            the true opening.
        processes: Number of processes; None: one per core. With more than one, call this under
            `if __name__ == "__main__":` in a script, as new interpreters are started.
        progress: Whether to show a bar on stderr.

    Returns:
        The paths, by index.

    Raises:
        ChildProcessError: A process was ended from outside; finished episodes are kept.
        InputError: `episodes` or `processes` below 1; an unknown task or gripper; a file in the folder from another
            recording.
    """
    for name, value, known in (("task", task, get_args(Task)), ("gripper", gripper, get_args(Reading))):
        if value not in known:
            raise InputError(f"simulate needs {name} out of {', '.join(known)}; got '{value}'. Choose one of those")
    if episodes < 1 or (processes is not None and processes < 1):
        raise InputError(f"simulate needs one episode and process or more; got {episodes=}, {processes=}. Raise it")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [_job(folder, i, seed, task, gripper) for i in range(episodes)]
    todo = [job for job in jobs if not _done(job)]
    _write_rig(folder / "rig.toml", gripper)
    workers = min(processes or _cores(), max(len(todo), 1))
    written = map(_record, todo) if workers == 1 else in_processes(_record, todo, workers, _alone)
    bar: dict[str, Any] = {"total": episodes, "initial": episodes - len(todo), "unit": "episode", "desc": "simulate"}
    for _ in tqdm(written, **bar, disable=not progress):
        pass
    return [job.path for job in jobs]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _alone() -> None:
    """Limit a worker to one core: the parallelism is over episodes."""
    cv2.setNumThreads(1)


def _job(folder: Path, index: int, seed: int, task: Task, gripper: Reading) -> _Job:
    if task == "mixed":
        task = "expert" if index % _EXPERT_EVERY == _EXPERT_EVERY - 1 else "regrasp"
    return _Job(folder / f"episode_init_{index}.hdf5", index, seed, task, gripper)


def _done(job: _Job) -> bool:
    """Return whether a job's file exists.

    Raises:
        InputError: The file exists, but it is not this job's.
    """
    if not job.path.exists():
        return False
    with open_file(job.path) as file:
        attributes = read_attributes(file, job.path)
    identity = {key: attributes.get(key) for key in job.identity}
    if identity != job.identity:
        text = f"needed the episode of {job.identity}; found that of {identity}"
        raise InputError(f"{job.path}: {text}. Record into another folder, or move the old episodes away")
    return True


def _rig(gripper: Reading) -> Rig:
    rig = load_rig("cell")
    for arm in rig.arms:
        rig = rig.with_gripper(arm, reading=gripper)
    return rig


def _write_rig(path: Path, gripper: Reading) -> None:
    rig = _rig(gripper)
    if not path.exists():
        rig.save(path)
    elif load_rig(path).model_copy(update={"verified": None}) != rig:  # `verify --write` adds its verdict
        text = f"needed the simulated cell with a {gripper} gripper reading; found another rig"
        raise InputError(f"{path}: {text}. Record into another folder, or move that file away")


def _record(job: _Job) -> Path:
    """Simulate and write one episode."""
    looks, motion = (np.random.default_rng(s) for s in np.random.SeedSequence([job.seed, job.index]).spawn(2))
    rig = _rig(job.gripper)
    look = draw_look(looks)
    world = World(rig, look)
    script = tasks.Expert(world, motion) if job.task == "expert" else tasks.Regrasp(world, motion)
    sensor = rig.sensors[world.hand.sensor].stream
    images: dict[str, list[bytes]] = {name: [] for name in rig.cameras}
    touches, steps = list[bytes](), list[Step]()
    for step in script.steps():
        # Encoded at once, so that an episode's frames are never all in memory.
        for name in images:
            images[name].append(encode_jpeg(step.moment.images.pop(name), CAMERA_QUALITY))
        touches.append(encode_jpeg(step.moment.touch, TOUCH_QUALITY, full_chroma=True))
        step.moment.touch = step.moment.touch[:0]
        steps.append(step)
    qpos, action = _states(world, steps, job.gripper)
    attributes = job.identity | {"object": look.kind, "scale": look.scale, "phases": ",".join(PHASES)}
    return write_episode(
        job.path,
        qpos=qpos,
        action=action,
        images=images,
        touches={sensor: touches},
        fps=tasks.LIFT_FPS if job.task == "expert" else tasks.REGRASP_FPS,
        attributes={**attributes, "success": script.success() if isinstance(script, tasks.Expert) else True},
        extra={**_truth(steps), "truth/touch_reference": world.gel.reference},
    )


def _states(world: World, steps: list[Step], gripper: Reading) -> tuple[Floats, Floats]:
    """Return qpos and action, (T, n + 1): joints, rad, and the gripper as a share of its stroke.

    The action of a step is the command at the next step; the last step repeats the present command.
    """
    closed, opened = world.hand.stroke
    command = np.array([step.target for step in steps])
    command[:, -1] = (command[:, -1] - closed) / (opened - closed)
    qpos = np.array([np.append(step.moment.q, step.moment.truth.opening[0]) for step in steps])
    qpos[:, -1] = command[:, -1] if gripper == "commanded" else (qpos[:, -1] - closed) / (opened - closed)
    return qpos, np.concatenate([command[1:], command[-1:]])


def _truth(steps: list[Step]) -> dict[str, np.ndarray]:
    truths = [step.moment.truth for step in steps]
    names = ("contact", "indentation", "opening", "thing")
    out = {f"truth/{name}": np.array([getattr(t, name) for t in truths]) for name in names}
    out["truth/contact_index"] = np.array([step.contact for step in steps], np.int32)
    out["truth/phase"] = np.array([PHASES.index(step.phase) for step in steps], np.uint8)
    for name in truths[0].box:
        out[f"truth/box/{name}"] = np.array([t.box[name] for t in truths])
        out[f"truth/unoccluded/{name}"] = np.array([t.unoccluded[name] for t in truths])
    return out
