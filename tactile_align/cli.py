"""The verbs: each a thin call of one library function. Results on stdout, remarks on stderr.

Exit status: 0 good, 1 a check failed, 2 unusable input. Heavy modules are imported by the verb that needs them.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

GOOD, FAILED, UNUSABLE = 0, 1, 2


def simulate(
    out: Positional[Path],
    episodes: int,
    seed: int = 0,
    task: Literal["expert", "regrasp", "mixed"] = "regrasp",
    gripper: Literal["commanded", "measured"] = "commanded",
    processes: int | None = None,
) -> int:
    """Record true-to-layout HDF5 episodes of a Nova 2 cell in MuJoCo, with the truth beside them.

    Args:
        out: Folder for the episodes and their rig.toml.
        episodes: How many.
        seed: Equal seed, equal bytes.
        task: expert: reach, close until contact, lift. regrasp: 10 to 20 contacts an episode. mixed: both.
        gripper: Whether qpos holds the last commanded or the measured opening.
        processes: How many record at the same time; all cores when left out.
    """
    from tactile_align.simulation.record import simulate as record

    written = record(out, episodes=episodes, seed=seed, task=task, gripper=gripper, processes=processes)
    print(f"{len(written)} episodes in {out}, rig in {out / 'rig.toml'}")
    return GOOD


def inspect(
    path: Positional[Path],
    layout: str | None = None,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Tell what an episode or a folder holds and what is wrong with it; exit 1 when a fault was found.

    Args:
        path: Episode file or folder.
        layout: Name or path of the layout; recognised when left out.
        as_json: Machine-readable.
    """
    from tactile_align.datasets.inspect import inspect_path

    report = inspect_path(path, layout)
    print(json.dumps(report.json(), indent=2) if as_json else report.text())
    return GOOD if report.good else FAILED


def overlay(
    episode: Positional[str],
    rig: str | None = None,
    out: Path | None = None,
    cameras: tuple[str, ...] | None = None,
    start: Annotated[int, arg(name="from")] = 0,
    stop: Annotated[int | None, arg(name="to")] = None,
    every: int = 1,
    format: Literal["auto", "png", "sheet", "mp4"] = "auto",
    compare: str | None = None,
    overwrite: bool = False,
) -> int:
    """Draw the sensor's box, its tokens, the touch and the joints on an episode's frames.

    Args:
        episode: Episode file; FILE#NAME where a file holds several.
        rig: Name or path of the rig; rig.toml beside the episode when left out.
        out: A .png or .mp4 file, or a folder.
        cameras: Which cameras; all when left out.
        start: First row.
        stop: One past the last row.
        every: Draw every so many rows.
        format: png: one picture a row; sheet: some rows on one picture; mp4: a movie; auto: by the ending of out.
        compare: A second rig, drawn dashed, with the IoU of both boxes.
        overwrite: Replace existing files.
    """
    from tactile_align.viz.overlay import overlay as draw

    written = draw(
        episode,
        rig=rig,
        out=out,
        cameras=cameras,
        start=start,
        stop=stop,
        every=every,
        format=format,
        compare=compare,
        overwrite=overwrite,
    )
    for path in written:
        print(path)
    return GOOD


def train(argv: Sequence[str]) -> int:
    """Train on HDF5 episodes, HSA beside ACT; exit 1 when the run diverged."""
    from tactile_align.training.config import TrainConfig, load_config
    from tactile_align.training.loop import DivergedError
    from tactile_align.training.loop import train as run_training

    rest = [word for word in argv if word != "--resume"]
    wants_help = not rest or rest[0] in ("-h", "--help")
    if wants_help:
        print("usage: tactile-align train CONFIG.toml [--resume] [--FIELD VALUE ...]\n")
        print("Every field of the config can be set by a flag, e.g. --hsa.temperature 0.08; after CONFIG.toml,")
        print("--help lists them all with the values of that config.")
        return GOOD if rest else UNUSABLE
    config = tyro.cli(TrainConfig, default=load_config(rest[0]), args=rest[1:], prog="tactile-align train CONFIG")
    try:
        out = run_training(config, resume="--resume" in argv)
    except DivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    print(f"run folder: {out}. Judge it with: tactile-align evaluate {out}")
    return GOOD


def evaluate(run: Positional[Path], as_json: Annotated[bool, arg(name="json")] = False, processes: int = 1) -> int:
    """Judge a run on its held-out episodes: retrieval beside chance and opening-only, and the action error.

    Args:
        run: Run folder.
        as_json: Machine-readable; the same is written to RUN/summary.json.
        processes: How many prepare episodes at the same time.
    """
    from tactile_align.diagnostics.evaluation import evaluate as judge

    found = judge(run, processes=processes)
    print(json.dumps(found.summary, indent=2) if as_json else found.text())
    return GOOD


def demo(size: Literal["smoke", "full"] = "full", out: Path = Path("runs") / "demo") -> int:
    """Do the whole job on a simulated cell: simulate, verify, overlay, train, evaluate, summary.

    Args:
        size: full takes up to 20 minutes on 2 cores; smoke at most 3, and proves only that all steps run.
        out: Folder for everything.
    """
    from tactile_align.demo import run_demo

    return run_demo(size, out)


VERBS: dict[str, Callable[..., int]] = {
    "simulate": simulate,
    "inspect": inspect,
    "overlay": overlay,
    "evaluate": evaluate,
    "demo": demo,
}


def run(argv: Sequence[str]) -> int:
    """Run one verb and return its exit status; an error is one line on stderr, without a traceback."""
    try:
        if argv and argv[0] == "train":
            return train(argv[1:])
        verbs = {**VERBS, "train": _train_help}
        return int(
            tyro.extras.subcommand_cli_from_dict(
                verbs, args=list(argv), prog="tactile-align", description=_DESCRIPTION, sort_subcommands=False
            )
        )
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {text}", file=sys.stderr)
        return UNUSABLE


def _train_help(config: Positional[Path]) -> int:
    """Train on HDF5 episodes, HSA beside ACT; every field of the config has a flag."""
    return train([str(config)])


_DESCRIPTION = "Line up what a robot feels with what its cameras see, prove it, and train a policy on it."
