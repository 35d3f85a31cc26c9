"""Roll-outs: policies act in the simulated cell, each seed with every class of object.

The classes of a seed differ only in the relief of the object. A policy that does not use the relief does the same with
every class. With two classes it then carries at most one of the two objects to the right side.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import h5py
import numpy as np
import torch
from tqdm import tqdm

from tactile_align.calibration.rig import Rig
from tactile_align.config.cell import CellOptions, Touch
from tactile_align.diagnostics.evaluation import encoder_name, run_names
from tactile_align.diagnostics.outcomes import Compared, Played, Rates, compare_played, success
from tactile_align.errors import FactError, InputError
from tactile_align.features.encoder import SCRATCH
from tactile_align.policies.checkpoint import header_of, latest_checkpoint
from tactile_align.policies.observation import Needs
from tactile_align.policies.runtime import Policy
from tactile_align.simulation.cell import EXECUTED, Cell, cell_rig
from tactile_align.simulation.gel import Pad
from tactile_align.simulation.record import recorded_options
from tactile_align.simulation.scene import read_hand
from tactile_align.training.data import EpisodeLists

Weights = Literal["last", "best"]
TOUCHES: dict[Touch, str] = {
    "true": "the policy gets the true touch",
    "shuffle": "the policy gets the touch of a donor, the same for all classes of a seed",
    "zero": "the policy gets the no-contact reference at every step",
}
_DONOR = 3  # last number of a donor's seed; roll-outs have one number, and recordings end in 1 or 2
RECORDED = ("stripe_mm", "mark_contrast", "camera_noise", "random_units", "visible_marks", "clutter", "relaxation")
"""Options of the cell of the training episodes in which the verb `rollout` lets a policy act."""
_ERRORS = ("box_offset_px", "rig_error_mm", "rig_error_deg")  # options that change the policy's rig, not the cell


class Acts(Protocol):
    """Policy that can be rolled out: `Policy`, or any other object with these members."""

    @property
    def needs(self) -> Needs:
        """Entries that the policy needs in an observation."""

    def reset(self) -> None:
        """Clear all state at the start of an episode."""

    def act(self, observation: Mapping[str, Any], /) -> np.ndarray:
        """Return the chunk (C, A) of the next C actions of A columns, in robot units.

        C is at least the number of executed actions, EXECUTED or `Policy.execute`.
        """


@dataclass(frozen=True)
class Filmed:
    """Outcome of an episode, with the images of each moment at which the policy was asked, and of the end.

    Attributes:
        played: The outcome.
        moments: By moment, the images (H, W, 3) uint8 RGB by name: all cameras, then the touch that the policy got.
    """

    played: Played
    moments: list[dict[str, np.ndarray]]


def play(
    policy: Acts,
    task: str,
    seeds: Sequence[int],
    *,
    options: CellOptions | None = None,
    touch: Touch = "true",
    film: list[Filmed] | None = None,
    progress: bool = False,
) -> list[Played]:
    """Return the outcomes of a policy that acts in the simulated cell, for each seed with every class of object.

    The policy is asked at every third step (EXECUTED), or at every `Policy.execute`-th step if that is set, and cameras
    are rendered only then. A policy with a window of touches gets the touch of every step. The noise of the heads flow
    and diffusion has the seed of the episode. An episode ends when the task is decided, when the object has fallen, or
    at the horizon. torch runs with one thread, so that equal seeds give the same outcomes on one machine with the same
    versions.

    A policy whose gripper reading is "commanded" notices the start of a contact only when it is asked, so it may hold
    an opening that is up to execute - 1 steps late (two without `Policy.execute`). Record with the reading "measured"
    for roll-outs.

    Args:
        policy: The policy. To give it the errors of its rig that `options` state, load it with `policy_of`.
        task: Name of the task, see `cell_tasks`.
        seeds: Seeds of the episodes, each at least 0.
        options: Options of the cell; None: the defaults.
        touch: true: the touch of the cell. shuffle: the touch of a donor at the same step. A donor is a demonstration
            with an object of a random class and a seed of its own, one per seed; all classes of the seed get its touch.
            zero: the no-contact reference of the episode's gel.
        film: List to which the episodes of the first seed are appended, with the images of all cameras.
        progress: Whether to show a progress bar on stderr.

    Raises:
        InputError: The task is unknown, the cell lacks a stream that the policy needs, `options` state errors of a rig
            that the policy does not have, or the policy returns fewer actions than are executed, or some that are not
            finite.
    """
    rig = _rig_for(policy, task)
    cell, unseen = Cell(task, options, rig, tuple(policy.needs.cameras)), Cell(task, options, rig, ())
    errors = {name: getattr(cell.options, name) for name in _ERRORS if getattr(cell.options, name)}
    if errors and isinstance(policy, Policy) and policy.rig.cameras != cell.policy_rig().cameras:
        raise InputError(
            f"{', '.join(f'{name} = {value:g}' for name, value in errors.items())} needs a policy whose cameras have "
            f"this error; got other cameras. Load the policy with policy_of(run, task, options)"
        )
    out = []
    with _one_thread():
        for number, seed in enumerate(tqdm(seeds, unit="seed", desc=task, disable=not progress)):
            donor, donor_side = _donor(unseen, seed) if touch == "shuffle" else (None, None)
            filmed = film if number == 0 else None
            world = cell if filmed is None else Cell(task, options, rig)
            for cls in range(cell.task.classes):
                moments: list[dict[str, np.ndarray]] | None = None if filmed is None else []
                world.reset(seed, cls)
                given = [world.world.gel.reference] * cell.task.horizon if touch == "zero" else donor
                _act(policy, world, given, moments, seed)
                o = world.outcome()
                out.append(
                    Played(
                        seed=seed,
                        cls=cls,
                        lifted=o.lifted,
                        decided=o.decided,
                        correct=o.correct,
                        side=o.side,
                        steps=world.count,
                        donor_side=donor_side,
                    )
                )
                if filmed is not None and moments is not None:
                    filmed.append(Filmed(out[-1], moments))
    return out


def _act(
    policy: Acts,
    cell: Cell,
    touches: Sequence[np.ndarray] | None,
    moments: list[dict[str, np.ndarray]] | None,
    seed: int,
) -> None:
    """Let a policy act in a cell after its reset, to the end of the episode.

    Args:
        policy: The policy.
        cell: The cell.
        touches: Touch image that replaces the true one, by step; None: the true touches.
        moments: List to which the images of each observation, and of the end, are appended.
        seed: Seed of the policy's noise.
    """
    executed = EXECUTED
    if isinstance(policy, Policy):
        policy.reset(seed=seed)
        executed = policy.execute or EXECUTED
    else:
        policy.reset()
    while cell.count < cell.task.horizon and not cell.over():
        place = cell.count % executed
        if place == 0:
            observation = _observed(cell, touches)
            if moments is not None:
                moments.append({**observation["images"], **observation["touches"]})
                observation["images"] = {name: observation["images"][name] for name in policy.needs.cameras}
            chunk = np.asarray(policy.act(observation))
            if chunk.ndim != 2 or len(chunk) < executed:
                raise InputError(
                    f"a roll-out executes {executed} actions of each chunk (C, A); got a chunk of shape {chunk.shape}. "
                    f"Train with policy.chunk_size of at least {executed}, and load the policy without ensembling"
                )
        elif isinstance(policy, Policy) and policy.needs.steps > 1:
            policy.observe(_observed(cell, touches)["touches"])
        cell.step(chunk[place])
    if moments is not None:
        last = _observed(cell, touches)
        moments.append({**last["images"], **last["touches"]})


def _observed(cell: Cell, touches: Sequence[np.ndarray] | None) -> dict[str, Any]:
    """Return the observation of the current moment, with the touch in `touches` at this step if they are given."""
    observation = cell.observation(cell.moment())
    if touches is not None:
        touch = touches[min(cell.count, len(touches) - 1)]
        observation["touches"] = dict.fromkeys(observation["touches"], touch)
    return observation


def _donor(cell: Cell, seed: int) -> tuple[list[np.ndarray], int | None]:
    """Return the touches of the donor of a seed, by step, and the side of its object (None: the task has no sides)."""
    stream = (seed, _DONOR)
    cls = int(np.random.default_rng(stream).integers(cell.task.classes))
    cell.reset(stream, cls)
    return [step.moment.touch for step in cell.demonstrate()], cell.task.sides[cls] or None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread: sums of several threads depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _rig_for(policy: Acts, task: str) -> Rig:
    """Return the rig of the simulated cell with the gripper reading of the policy's rig.

    Raises:
        InputError: The cell lacks an arm, a sensor or a stream that the policy needs.
    """
    rig, needs, wrong = cell_rig(), policy.needs, list[str]()
    (arm,) = rig.arms
    if isinstance(policy, Policy):
        if arm in policy.rig.arms:
            rig = cell_rig(policy.rig.gripper(arm).reading)
        wrong += [f"arm '{name}'" for name in policy.rig.arms if name != arm]
        wrong += [f"sensor '{view.sensor}'" for view in policy.views if view.sensor not in rig.sensors]
    hand, columns = read_hand(rig, arm), rig.arms[arm].arm.dof + 1
    pad = Pad(hand.pad_width, hand.pad_height)
    cameras = {name: (c.stored.width, c.stored.height) for name, c in rig.cameras.items()}
    touches = {rig.sensors[hand.sensor].stream: (pad.columns, pad.rows)}
    if needs.state_dim != columns:
        wrong.append(f"qpos of {needs.state_dim} columns")
    for what, wanted, there in (("camera", needs.cameras, cameras), ("touch", needs.touches, touches)):
        for name, size in wanted.items():
            if name not in there or size not in (None, there[name]):
                wrong.append(f"{what} '{name}'" + (f" {size[0]}x{size[1]}" if size else ""))
    if wrong:
        has = ", ".join(f"'{name}' {width}x{height}" for name, (width, height) in {**cameras, **touches}.items())
        raise InputError(
            f"the policy needs {', '.join(dict.fromkeys(wrong))}; the simulated cell has the arm '{arm}', qpos of "
            f"{columns} columns, and the streams {has}. Train on recordings of the cell: tactile-align simulate OUT "
            f"--episodes 80 --task {task} --gripper measured"
        )
    return rig


def policy_of(
    run: str | Path, task: str, options: CellOptions | None = None, weights: Weights = "last"
) -> tuple[Policy, str]:
    """Return the policy of a run for the simulated cell, and a text that states its weights.

    Args:
        run: The run folder.
        task: Name of the task.
        options: Options of the cell; the policy gets the rig of the cell with the errors that they state.
        weights: last: the weights of the last step, or their running mean if the run has one. best: the weights with
            the smallest held-out action error.

    Raises:
        FactError, FileNotFoundError: The folder does not contain a run with a checkpoint.
        InputError: The run has no policy, no such weights, or a rig other than the cell's; the message names the run.
    """
    folder = Path(run)
    path = latest_checkpoint(folder / "checkpoints")
    if weights == "best":
        path = path.with_name("best_action.safetensors")
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; the weights best are written by a validation pass that measures the action "
                f"error. Use the weights last, or train with a smaller validate_every"
            )
    own = Policy.load(folder, checkpoint=path)
    try:
        rig = _rig_for(own, task)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    sizes = {name: size for name, size in own.needs.touches.items() if size is not None}
    policy = Policy(own.model, own.config, Cell(task, options, rig, ()).policy_rig(), own.statistics, sizes)
    step = int(header_of(path).get("step", path.stem.rpartition("_")[2]))
    total, mean = policy.config.steps, policy.config.optimiser.ema
    text = f"{weights}, step {step}" + (f" of {total}" if step < total else "")
    return policy, text + ("" if mean is None else ", running mean")


@dataclass(frozen=True)
class RunPlayed:
    """Roll-outs of one run.

    Attributes:
        run: Name of the run.
        weights: Weights that were used, with their step.
        encoders: Names of the encoders of images and touches with the source of their weights, or "none".
        rates: Success over all seeds.
        played: Outcome of each episode.
        against_first: Comparison with the first run; None for the first run.
    """

    run: str
    weights: str
    encoders: str
    rates: Rates
    played: tuple[Played, ...]
    against_first: Compared | None = None


@dataclass(frozen=True)
class Rollouts:
    """Roll-outs of several runs on the same seeds.

    Attributes:
        task: Name of the task.
        touch: Touch that the policies got, see `play`.
        options: Options of the cell that differ from the defaults, by name.
        runs: Roll-outs of each run.
        source: Origin of the options of the cell, see `recorded_cell`; "" if the caller chose them.
    """

    task: str
    touch: Touch
    options: dict[str, Any]
    runs: tuple[RunPlayed, ...]
    source: str = ""

    def text(self) -> str:
        """Return the results as a table, with the conditions above it and the comparisons below it."""
        first, classes = self.runs[0].rates, "class" if self.runs[0].rates.classes == 1 else "classes"
        lines = [
            f"{self.task}, simulated cell: {first.seeds} seeds from {self.runs[0].played[0].seed}, each with "
            f"{first.classes} {classes} of objects; 95 % intervals over seeds in brackets",
            "the relief is a ghost: the gel feels it; it has no part in the physics",
            f"touch {self.touch}: {TOUCHES[self.touch]}",
        ]
        if self.source:
            lines.append(self.source)
        if self.options:
            lines.append(f"options: {', '.join(f'{name} = {value}' for name, value in self.options.items())}")
        lines += [f"encoders of {r.run}: {r.encoders}" for r in self.runs]
        if any("SCRATCH" in r.encoders for r in self.runs):
            lines.append("SCRATCH: the encoder started from random weights")
        rows = [["run", "weights", "lifted", "decided", "correct"]]
        rows += [[r.run, r.weights, *(getattr(r.rates, name).text() for name in rows[0][2:])] for r in self.runs]
        if first.classes > 1:
            rows[0] += ["both right" if first.classes == 2 else "all right", "seeds that differ"]
            for row, r in zip(rows[1:], self.runs, strict=True):
                row += [r.rates.both_right.text(), f"{r.rates.pairs_that_differ}/{first.seeds}"]
        if first.follows_donor is not None:
            rows[0].append("follows the donor")
            for row, r in zip(rows[1:], self.runs, strict=True):
                row.append("-" if r.rates.follows_donor is None else r.rates.follows_donor.text())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]
        if len(self.runs) > 1:
            lines += ["", f"compared with {self.runs[0].run} seed by seed (Bonferroni for {len(self.runs) - 1}):"]
            lines += [f"  {r.run}: {r.against_first.text()}" for r in self.runs if r.against_first is not None]
        return "\n".join(lines)


def rollout(
    runs: Sequence[str | Path],
    task: str,
    seeds: Sequence[int],
    *,
    options: CellOptions | None = None,
    touch: Touch = "true",
    weights: Weights = "last",
    film: dict[str, list[Filmed]] | None = None,
    progress: bool = True,
) -> Rollouts:
    """Return the roll-outs of runs in the simulated cell, each compared with the first run.

    Args:
        runs: Run folders.
        task: Name of the task, see `cell_tasks`.
        seeds: Seeds of the episodes, different from one another.
        options: Options of the cell; None: the defaults.
        touch: Touch that the policies get, see `play`.
        weights: Weights that are used, see `policy_of`.
        film: Dictionary to which the filmed episodes of the first seed are added, by name of the run.
        progress: Whether to show progress bars on stderr.

    Raises:
        InputError: A run or a seed is given twice, or none is given. Also the errors of `policy_of` and `play`.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"roll-outs need at least one seed, each once; got {list(seeds)}. Give other seeds")
    names, options = run_names([Path(run) for run in runs]), options or CellOptions()
    # All runs are loaded before the first one is played, so that an unusable run costs no roll-outs.
    policies = {name: policy_of(run, task, options, weights) for name, run in zip(names, runs, strict=True)}
    out: list[RunPlayed] = []
    for name, (policy, text) in policies.items():
        strip = None if film is None else film.setdefault(name, [])
        played = play(policy, task, seeds, options=options, touch=touch, film=strip, progress=progress)
        against = compare_played(played, out[0].played, len(runs) - 1) if out else None
        out.append(RunPlayed(name, text, _encoders(policy), success(played), tuple(played), against))
    return Rollouts(task, touch, options.model_dump(exclude_defaults=True), tuple(out))


def recorded_cell(runs: Sequence[str | Path]) -> tuple[CellOptions, str]:
    """Return the options of the cell in which the training episodes of runs were recorded, and a text on their origin.

    Only the options RECORDED are taken. They are the defaults if the episodes are of no closed-loop task, or no longer
    lie where they were; the text then says so.

    Raises:
        FactError, InputError: A run does not exist, or the training episodes were recorded with different or unknown
            options.
    """
    found: dict[str, CellOptions] = {}
    texts = []
    for run in runs:
        if not Path(run).is_dir():
            raise FactError(f"{run}: no such folder. Give the folder of a training run")
        # One episode of each [[data]] entry, because a recording has the same options in all episodes.
        paths = {entry.data: Path(entry.path) for entry in reversed(EpisodeLists.load(Path(run)).train)}
        for path in paths.values():
            options = CellOptions()
            if not path.exists():
                texts.append(f"{path}, an episode that {run} was trained on, is not there: default options of the cell")
            elif h5py.is_hdf5(path) and (stated := recorded_options(path)) is not None:
                options = CellOptions(**{name: getattr(stated, name) for name in RECORDED})
                texts.append("cell as in the training episodes")
            else:
                texts.append("training episodes that state no cell: default options of the cell")
            found[f"{run} ({path.parent})"] = options
    first = next(iter(found.values()))
    if any(options != first for options in found.values()):
        stated_by = "; ".join(f"{name}: {options.model_dump() or 'the defaults'}" for name, options in found.items())
        raise InputError(
            f"runs are rolled out together in the cell of their training episodes, but these differ: {stated_by}. Roll "
            f"out the runs of each recording on their own"
        )
    return first, "; ".join(dict.fromkeys(texts))


def _encoders(policy: Policy) -> str:
    names, act = [encoder_name(policy.model)], policy.config.policy
    if act.vision == "resnet18":
        names.append(f"ResNet-18 ({'SCRATCH' if act.vision_weights == SCRATCH else act.vision_weights})")
    return ", ".join(name for name in names if name != "none") or "none"
