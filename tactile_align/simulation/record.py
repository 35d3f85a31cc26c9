"""Recording of simulated episodes in the X-Trainer layout, with ground truth, by parallel processes.

Every episode has its own seed, (seed, index), so its bytes do not depend on the process or the time of recording.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from tqdm import tqdm

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.config.cell import CellOptions, Recorded
from tactile_align.datasets.codec import encode_jpeg
from tactile_align.datasets.containers import tree
from tactile_align.datasets.episodes import write_episode
from tactile_align.datasets.handles import open_file
from tactile_align.errors import InputError
from tactile_align.facts import parse
from tactile_align.simulation import tasks
from tactile_align.simulation.cell import STEP_HZ, Cell, cell_rig
from tactile_align.simulation.cell_tasks import TASKS
from tactile_align.simulation.gel import Relaxation
from tactile_align.simulation.looks import draw_look
from tactile_align.simulation.raycast import Floats
from tactile_align.simulation.world import PHASES, Step, World
from tactile_align.workers import in_processes

Reading = Literal["commanded", "measured"]
TOUCH_QUALITY, CAMERA_QUALITY = 95, 90  # touches need fine texture; a lower quality of camera frames saves space
_PLAY = "-play"
_FPS = {"expert": tasks.LIFT_FPS, "tour": tasks.TOUR_FPS, **dict.fromkeys(TASKS, STEP_HZ)}
_EXPERT_EVERY = 4  # in a mixed recording, every fourth episode is an expert episode


@dataclass(frozen=True)
class _Job:
    path: Path
    index: int
    seed: int
    task: Recorded
    gripper: Reading
    options: CellOptions

    @property
    def closed_loop(self) -> str | None:
        """Name of the closed-loop task whose objects the episode shows, or None."""
        name = self.task.removesuffix(_PLAY)
        return name if name in TASKS else None

    @property
    def identity(self) -> dict[str, Any]:
        """Attributes by which an existing file is recognised as the result of this job."""
        out = {f"simulated_{key}": getattr(self, key) for key in ("task", "gripper", "seed", "index")}
        stated = self.closed_loop or self.options != CellOptions()
        return out | ({"simulated_options": self.options.model_dump_json()} if stated else {})


def simulate(
    out: str | Path,
    *,
    episodes: int,
    seed: int = 0,
    task: Recorded = "regrasp",
    gripper: Reading = "commanded",
    options: CellOptions | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Record episodes of the shipped cell in a folder and return their paths.

    The files are OUT/episode_init_<i>.hdf5, and the cell's rig is OUT/rig.toml. Finished episodes in the folder are
    kept, so an interrupted recording resumes. The group `truth` of each file contains the ground truth, which training
    does not read: for each of T frames: box/<camera> (T, 4), the box of the whole sensor, hidden parts included, in
    stored pixels; unoccluded/<camera> (T,), the visible share of the sensor; contact (T,); contact_index (T,);
    indentation (T,), m; print (T, 2), the centroid of the indentation, from the pad's centre along the columns and rows
    of the touch image, m; opening (T, 2), m; thing (T, 3), the position of the object, m; phase (T,), the index into
    the attribute `phases`. In addition, touch_reference is the no-contact reference without noise.

    Args:
        out: The folder; created when missing.
        episodes: Number of episodes in the folder after the call.
        seed: The same seed gives the same bytes on the same machine with the same versions, whatever `processes` is.
        task: expert: grasp and lift with physics, 10 frames per second. regrasp: contacts in set poses, without
            physics, 5 frames per second. tour: two to four objects stand on the bench and are touched once each, from
            left to right in the view of the camera "top", then the hand goes back; without physics, 10 frames per
            second; the attribute `objects` is their number, and `thing` the place of the one that is touched now or
            next. mixed: every fourth episode is expert, the others are regrasp. lift, feel,
            look, sort: demonstrations of a closed-loop task, see `cell_tasks`, 10 frames per second. look-play and
            sort-play: regrasp with the objects of that task, whose marks are visible. Episode i of a closed-loop task
            shows an object of the class i % classes; it is stored in the attribute `cls`. With the option `two_ways`,
            the attribute `way` is 0 or 1, see `Cell.demonstrate`.
        gripper: Content of the last column of qpos. commanded: the last command, as in X-Trainer recordings. measured:
            the true opening.
        options: Options of the cell; the first four tasks have the option `relaxation` only. None: the defaults.
        processes: Number of processes; None: one per core. A script that uses several processes must call this function
            under `if __name__ == "__main__":`, because every process starts a new interpreter.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The paths, by index.

    Raises:
        ChildProcessError: A worker process was killed; finished episodes are kept.
        InputError: `episodes` or `processes` is below 1, the task or gripper is unknown, the task lacks one of the
            `options`, or a file in the folder is from another recording.
    """
    for name, value, known in (("task", task, get_args(Recorded)), ("gripper", gripper, get_args(Reading))):
        if value not in known:
            raise InputError(f"{name} = '{value}' is unknown to simulate. Choose one of: {', '.join(known)}")
    for name, number in (("episodes", episodes), ("processes", processes)):
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1; got {number}. Set {name} to 1 or more")
    folder = Path(out)
    jobs = [_job(folder, i, seed, task, gripper, options or CellOptions()) for i in range(episodes)]
    others = sorted(set((options or CellOptions()).model_dump()) - {"relaxation"})
    if others and not jobs[0].closed_loop:
        raise InputError(
            f"task = '{task}' has no options of a closed-loop cell except relaxation; got {', '.join(others)}. Omit "
            f"them, or choose one of: {', '.join(TASKS)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    todo = [job for job in jobs if not _done(job)]
    _write_rig(folder / "rig.toml", cell_rig(gripper) if jobs[0].closed_loop else _rig(gripper))
    workers = min(processes or _cores(), max(len(todo), 1))
    written = map(_record, todo) if workers == 1 else in_processes(_record, todo, workers, _alone)
    bar: dict[str, Any] = {"total": episodes, "initial": episodes - len(todo), "unit": "episode", "desc": "simulate"}
    for _ in tqdm(written, **bar, disable=not progress):
        pass
    return [job.path for job in jobs]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _alone() -> None:
    """Limit OpenCV in a worker to one thread, because the episodes already run in parallel."""
    cv2.setNumThreads(1)


def _job(folder: Path, index: int, seed: int, task: Recorded, gripper: Reading, options: CellOptions) -> _Job:
    if task == "mixed":
        task = "expert" if index % _EXPERT_EVERY == _EXPERT_EVERY - 1 else "regrasp"
    return _Job(folder / f"episode_init_{index}.hdf5", index, seed, task, gripper, options)


def _done(job: _Job) -> bool:
    """Return whether a job's file exists.

    Raises:
        InputError: The file exists but is the result of another job.
    """
    if not job.path.exists():
        return False
    with open_file(job.path) as file:
        attributes = tree.attributes(file, job.path)
    identity = {key: attributes.get(key) for key in job.identity}
    if (options := _options_of(attributes, job.path)) is not None:
        identity["simulated_options"] = options.model_dump_json()
    if identity != job.identity:
        text = f"this file is from another recording, with {identity}; expected {job.identity}"
        raise InputError(f"{job.path}: {text}. Record to another folder, or move the old episodes away")
    return True


def recorded_options(path: Path) -> CellOptions | None:
    """Return the options of the cell with which an episode was recorded; None if it is of no closed-loop task.

    Raises:
        FactError, InputError: The file is no readable episode, or states options that are unknown here.
    """
    with open_file(path) as file:
        return _options_of(tree.attributes(file, path), path)


def _options_of(attributes: dict[str, Any], path: Path) -> CellOptions | None:
    text = attributes.get("simulated_options")
    if text is None:
        return None
    where = f"{path}: simulated_options"
    try:
        stated = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where} must be JSON; got {text!r:.60} ({error}). Record the episode again") from error
    return parse(CellOptions, stated, where)


def _rig(gripper: Reading) -> Rig:
    rig = load_rig("cell")
    for arm in rig.arms:
        rig = rig.with_gripper(arm, reading=gripper)
    return rig


def _write_rig(path: Path, rig: Rig) -> None:
    if not path.exists():
        rig.save(path)
    elif load_rig(path).model_copy(update={"verified": None}) != rig:  # `verify --write` adds its verdict
        text = "this rig differs from the simulated cell's rig with the task and gripper reading of this recording"
        raise InputError(f"{path}: {text}. Record to another folder, or move that file away")


def _record(job: _Job) -> Path:
    """Simulate one episode, write it and return its path."""
    return _write_cell_episode(job, job.closed_loop) if job.closed_loop else _write_episode(job)


def _write_episode(job: _Job) -> Path:
    looks, motion, gel = (np.random.default_rng(s) for s in np.random.SeedSequence([job.seed, job.index]).spawn(3))
    rig = _rig(job.gripper)
    look, objects = draw_look(looks), tuple[Floats, ...]()
    if job.task == "tour":
        look, objects = tasks.draw_objects(looks, look, rig)
    world = World(rig, look, relaxation=Relaxation.draw(gel) if job.options.relaxation else None)
    if job.task == "tour":
        tour = tasks.Tour(world, motion, objects).steps()
        return _write(job, rig, world, tour, lambda: {"success": True, "objects": len(objects)})
    if job.task == "expert":
        expert = tasks.Expert(world, motion)
        return _write(job, rig, world, expert.steps(), lambda: {"success": expert.success()})
    return _write(job, rig, world, tasks.Regrasp(world, motion).steps(), lambda: {"success": True})


def _write_cell_episode(job: _Job, name: str) -> Path:
    """Record a demonstration of a closed-loop task, or play with its objects."""
    play = job.task.endswith(_PLAY)
    options = job.options
    if play and options.visible_marks is None:
        options = options.model_copy(update={"visible_marks": True})
    cell = Cell(name, options, cell_rig(job.gripper))
    number, cls = divmod(job.index, cell.task.classes)
    # The last number tells demonstrations and play from roll-outs, which have one number.
    cell.reset((job.seed, number, 2 if play else 1), cls)
    steps = tasks.Regrasp(cell.world, cell.script_rng).steps() if play else cell.demonstrate()
    stated = {"cls": cls, "side": cell.task.sides[cls]} | ({"way": cell.way} if options.two_ways else {})
    return _write(
        job, cell.rig, cell.world, steps, lambda: {**stated, "success": True if play else cell.outcome().correct}
    )


def _write(job: _Job, rig: Rig, world: World, script: Iterator[Step], attributes: Callable[[], dict[str, Any]]) -> Path:
    """Write the steps of an episode; `attributes` is called after the last step."""
    sensor = rig.sensors[world.hand.sensor].stream
    images: dict[str, list[bytes]] = {name: [] for name in rig.cameras}
    touches, steps = list[bytes](), list[Step]()
    for step in script:
        # Frames are encoded immediately, so that the raw frames of an episode are never all in memory.
        for name in images:
            images[name].append(encode_jpeg(step.moment.images.pop(name), CAMERA_QUALITY))
        touches.append(encode_jpeg(step.moment.touch, TOUCH_QUALITY, full_chroma=True))
        step.moment.touch = step.moment.touch[:0]
        steps.append(step)
    qpos, action = _states(world, steps, job.gripper)
    look = world.look
    stated = job.identity | {"object": look.kind, "scale": look.scale, "phases": ",".join(PHASES)}
    return write_episode(
        job.path,
        qpos=qpos,
        action=action,
        images=images,
        touches={sensor: touches},
        fps=_FPS.get(job.task, tasks.REGRASP_FPS),
        attributes={**stated, **attributes()},
        extra={**_truth(steps), "truth/touch_reference": world.gel.reference},
    )


def _states(world: World, steps: list[Step], gripper: Reading) -> tuple[Floats, Floats]:
    """Return qpos and action, (T, n + 1) each: joints, rad, and the gripper as a share of its stroke.

    Where a step states no action, its action is the command at the next step; the action of the last step is then its
    own command.
    """
    following = [*steps[1:], steps[-1]]
    command = np.array([step.target for step in steps])
    pairs = zip(steps, following, strict=True)
    action = np.array([later.target if step.action is None else step.action for step, later in pairs])
    qpos = np.array([np.append(step.moment.q, step.moment.truth.opening[0]) for step in steps])
    if gripper == "commanded":
        qpos[:, -1] = command[:, -1]
    closed, opened = world.hand.stroke
    for values in (qpos, action):
        values[:, -1] = (values[:, -1] - closed) / (opened - closed)
    return qpos, action


def _truth(steps: list[Step]) -> dict[str, np.ndarray]:
    truths = [step.moment.truth for step in steps]
    names = ("contact", "indentation", "print", "opening", "thing")
    out = {f"truth/{name}": np.array([getattr(t, name) for t in truths]) for name in names}
    out["truth/contact_index"] = np.array([step.contact for step in steps], np.int32)
    out["truth/phase"] = np.array([PHASES.index(step.phase) for step in steps], np.uint8)
    for name in truths[0].box:
        out[f"truth/box/{name}"] = np.array([t.box[name] for t in truths])
        out[f"truth/unoccluded/{name}"] = np.array([t.unoccluded[name] for t in truths])
    return out
