"""Verbs on runs: train, evaluate, demo. Heavy modules are imported by the verb that needs them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from tactile_align.verbs import GOOD, UNUSABLE


def train(argv: Sequence[str]) -> int:
    """Train on HDF5 episodes, HSA beside ACT; exit 1 when the run diverged."""
    from tactile_align.config.train import TrainConfig, load_config
    from tactile_align.training.loop import train as run_training

    rest = [word for word in argv if word != "--resume"]
    wants_help = not rest or rest[0] in ("-h", "--help")
    if wants_help:
        print("usage: tactile-align train CONFIG.toml [--resume] [--FIELD VALUE ...]\n")
        print("Every field of the config can be set by a flag, e.g. --hsa.temperature 0.08; after CONFIG.toml,")
        print("--help lists them all with the values of that config. --traceback shows where an error was raised.")
        return GOOD if rest else UNUSABLE
    config = tyro.cli(TrainConfig, default=load_config(rest[0]), args=rest[1:], prog="tactile-align train CONFIG")
    out = run_training(config, resume="--resume" in argv)
    print(f"run folder: {out}. Judge it with: tactile-align evaluate {out}")
    return GOOD


def evaluate(run: Positional[Path], as_json: Annotated[bool, arg(name="json")] = False, processes: int = 1) -> int:
    """Judge a run on its held-out episodes: retrieval beside its baselines, localisation, feature space, action error.

    Args:
        run: Run folder.
        as_json: Machine-readable; the same is written to RUN/summary.json.
        processes: How many prepare episodes at the same time.
    """
    from tactile_align.diagnostics.evaluation import evaluate as judge
    from tactile_align.diagnostics.summary import json_of

    summary = judge(run, processes=processes)
    print(json_of(summary) if as_json else summary.text())
    return GOOD


def doctor(config: Positional[Path], as_json: Annotated[bool, arg(name="json")] = False, processes: int = 1) -> int:
    """Check data, model and a few steps of learning before a run costs a day; exit 1 when a check fails.

    Args:
        config: Training config.
        as_json: Machine-readable.
        processes: How many prepare episodes at the same time.
    """
    from tactile_align.config.train import load_config
    from tactile_align.diagnostics.doctor.diagnose import diagnose

    report = diagnose(load_config(config), processes=processes)
    print(report.json() if as_json else report.text())
    return report.exit_code


def ablate(config: Positional[Path], as_json: Annotated[bool, arg(name="json")] = False, processes: int = 1) -> int:
    """Rebuild a config piece by piece, plain policy first, and report the first piece with which a check fails.

    Args:
        config: Training config.
        as_json: Machine-readable.
        processes: How many prepare episodes at the same time.
    """
    from tactile_align.config.train import load_config
    from tactile_align.diagnostics.doctor.ablation import ablate as rebuild

    report = rebuild(load_config(config), processes=processes)
    print(report.json() if as_json else report.text())
    return report.exit_code


def study(
    out: Positional[Path],
    rows: tuple[str, ...] = ("table",),
    seeds: tuple[int, ...] = (0, 1, 2),
    size: Literal["full", "smoke"] = "full",
    processes: int = 1,
    threads: int = 1,
) -> int:
    """Compare regions, negatives and losses in the simulated cell; stopped studies go on where they were.

    Args:
        out: Folder of the study.
        rows: Names of rows, or table, or ablations.
        seeds: One run a row and seed.
        size: smoke proves that all parts work together, and nothing else.
        processes: How many processes record and prepare episodes.
        threads: Torch threads of a run.
    """
    from tactile_align.diagnostics.study import study as compare

    print(compare(out, rows, seeds, size, processes=processes, threads=threads))
    return GOOD


def report(
    run: Positional[Path],
    other: Positional[Path | None] = None,
    out: Path | None = None,
    pictures: Path | None = None,
    draw: bool = False,
    overwrite: bool = False,
) -> int:
    """Write one self-contained HTML page about a run, or comparing two.

    Args:
        run: Run folder.
        other: A second run to compare with.
        out: Page to write; RUN/report.html when left out.
        pictures: Folder of pictures to embed; RUN/pictures when left out.
        draw: Draw maps, galleries, attention and sample overlays first; needs the recordings.
        overwrite: Replace an existing page and, with --draw, existing pictures.
    """
    from tactile_align.viz.report.report import report as write

    print(write(run, other, out=out, pictures=pictures, draw=draw, overwrite=overwrite))
    return GOOD


def watch(run: Positional[Path], port: int = 8765) -> int:
    """Show the report of a running training in a browser on this machine, made anew whenever it logs; Ctrl-C ends it.

    Args:
        run: Run folder.
        port: Where on 127.0.0.1; 0 takes a free one.
    """
    from tactile_align.viz.report.live import watch as serve

    serve(run, port, tell=lambda address: print(address, flush=True))
    return GOOD


def demo(size: Literal["smoke", "full"] = "full", out: Path = Path("runs") / "demo") -> int:
    """Do the whole job on a simulated cell: simulate, verify, overlay, train, evaluate, summary.

    Args:
        size: full takes up to 20 minutes on 2 cores; smoke at most 3, and proves only that all steps run.
        out: Folder for everything.
    """
    from tactile_align.demo import run_demo

    return run_demo(size, out)
