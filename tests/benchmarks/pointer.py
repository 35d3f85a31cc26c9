"""Does a contact pointer see what the joints do not tell? Run from the root of the repository:

    python -m tests.benchmarks.pointer RECORDING          # controls on held-out episodes of a simulated recording
    python -m tests.benchmarks.pointer --runs RUN...      # pointers of runs beside the controls, on their test episodes
    python -m tests.benchmarks.pointer --runs RUN... --against RUN...    # the first runs minus the others, paired

Prints the median error of each contact, px of the stored image and mm, by rows since the start of the episode, with
95 % intervals by a bootstrap over episodes, and the difference to `linear in joints`, which may have a regression of
its own for each of the first five rows. "linear, all rows" has one for all rows. "object" is the true centre of the
object that is touched next, which only a recording with ground truth tells. "images exchanged" is the pointer with the
images of another episode. For runs, the F1 of done follows. With --against, the runs are compared one by one in their
order, and all pairs together, on the same test episodes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import load_rig
from tactile_align.config.train import load_config
from tactile_align.datasets.episodes import list_episodes, open_episode
from tactile_align.datasets.truth import read_truth
from tactile_align.diagnostics import pointing
from tactile_align.diagnostics.pointing import (
    LINEAR,
    PERIODS,
    POINTER,
    Pointed,
    controls,
    donors,
    f1,
    pointed,
    predictions,
)
from tactile_align.geometry.frames import invert
from tactile_align.moments.cache import Job
from tactile_align.moments.dataset import Moments
from tactile_align.moments.inputs import Input
from tactile_align.policies.build import LoadedRun
from tactile_align.training.data import Data, load_data

DRAWS, HORIZON = 2000, 60
OBJECT, POOLED, EXCHANGED = "object", "linear, all rows", "images exchanged"
ROWS = {"0 to 4": (0, 5), **PERIODS}


def recording(folder: Path, cameras: Sequence[str], held_out: float, most: int = 1) -> tuple[Moments, Moments]:
    """Return moments of the training and of the held-out episodes, with whole frames as inputs; no frame is decoded."""
    rig, inputs = load_rig(folder / "rig.toml"), []
    (sensor,) = rig.sensors
    for name in cameras:
        width, height = rig.camera(name).stored.width, rig.camera(name).stored.height
        ahead = {"contacts": most, "horizon": HORIZON, "complete": True}
        inputs.append(Input(f"{name}-{sensor}", name, width, height, "stretch", sensor, **ahead))  # type: ignore[arg-type]
    inputs.append(Input(sensor, rig.sensor(sensor).stream, 30, 40))
    jobs = [Job(ref, rig.for_episode(ref.path), tuple(inputs), False) for ref in list_episodes(folder)]
    stop = len(jobs) - round(held_out * len(jobs))
    parts = (jobs[:stop], jobs[stop:])
    train, held = (Moments(part, chunk=1, cache=folder / "cache", progress=False) for part in parts)
    return train, held


def object_centre(moments: Moments, key: str) -> np.ndarray | None:
    """Return the pixel of the next object's true centre, (N, K, 2) px of the input image; None without ground truth.

    It is nan for the contacts after the next one.
    """
    entry = next(e for e in moments.jobs[0].inputs if e.key == key)
    uv = []
    for job, (qpos, _) in zip(moments.jobs, moments.low_dim(), strict=True):
        with open_episode(job.ref) as episode:
            thing = read_truth(episode, "thing", 3)
        if thing is None:
            return None
        mounted = job.rig.camera(entry.stream)
        T = invert(mounted.T_parent_this) @ job.rig.T_from_to(mounted.parent, "world", qpos)
        seen = np.asarray(mounted.stored.project((T[:, :3, :3] @ thing[..., None])[..., 0] + T[:, :3, 3])[0])
        uv.append(entry.image_map(mounted.stored.width, mounted.stored.height).apply(seen))
    centre = np.full(moments.ahead[key].points.shape, np.nan)
    centre[:, 0] = np.concatenate(uv)
    return centre


def bootstrap(values: np.ndarray, episode: np.ndarray) -> tuple[float, float, float]:
    """Return the median over N values, or over each column's difference of (N, 2), with its 95 % interval."""
    rng = np.random.default_rng(0)
    groups = [values[episode == e] for e in np.unique(episode)]

    def statistic(rows: np.ndarray) -> float:
        medians = np.nanmedian(rows, axis=0)
        return float(medians if rows.ndim == 1 else medians[0] - medians[1])

    drawn = [
        statistic(np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])) for _ in range(DRAWS)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return statistic(values), float(low), float(high)


def table(result: Pointed, k: int = 0) -> list[str]:
    """Return the rows of a Markdown table of one view's errors of the k-th contact."""
    lines = []
    for period, limits in ROWS.items():
        rows = result.of(*limits, k)
        for name in result.predicted if len(rows) else ():
            px, mm, base = result.px[name][rows, k], result.mm[name][rows, k], result.px[LINEAR][rows, k]
            if np.isnan(px).all():
                continue
            cells = [
                f"{m:.1f} [{low:.1f}, {high:.1f}]"
                for m, low, high in (bootstrap(v, result.episode[rows]) for v in (px, mm))
            ]
            m, low, high = bootstrap(np.stack([px, base], axis=1), result.episode[rows])
            apart = "-" if name == LINEAR else f"{m:+.1f} [{low:+.1f}, {high:+.1f}]"
            episodes = len(np.unique(result.episode[rows]))
            head = f"| {result.view} | {k + 1} | {period} | {name} | {len(rows)} of {episodes} episodes"
            lines.append(f"{head} | {' | '.join(cells)} | {apart} |")
    return lines


def judged(train: Moments, moments: Moments, key: str) -> dict[str, np.ndarray]:
    """Return what all predictors without a model give, by name."""
    centre = object_centre(moments, key)
    rows = controls(train, moments, key) | {POOLED: pointing.linear(train, moments, key, ())}
    return rows if centre is None else rows | {OBJECT: centre}


def run_of(folder: Path) -> tuple[LoadedRun, Data]:
    """Return a run with the moments of its test episodes, and its data."""
    config = load_config(folder / "config.toml")
    data = load_data(config, progress=False, run=folder)
    return LoadedRun.load(folder, config, data.judged, "retrieval"), data


def runs(folders: Sequence[Path]) -> None:
    """Print the errors of the pointers of runs on their test episodes."""
    for folder in folders:
        run, data = run_of(folder)
        own, exchanged = predictions(run), predictions(run, donors(run.moments))
        print(f"\n{folder}, {run.selected}, {data.judged_on} episodes", flush=True)
        for key, (points, done, said) in own.items():
            named = {POINTER: points, EXCHANGED: exchanged[key][0]} | judged(data.train, data.judged, key)
            result = pointed(data.judged, key, named, done, said)
            print(*(line for k in range(points.shape[1]) for line in table(result, k)), sep="\n")
            print(f"{key}: F1 of done {f1_text([result])} over {int(result.done_known.sum())} entries", flush=True)


def f1_text(own: Sequence[Pointed], other: Sequence[Pointed] = ()) -> str:
    """Return F1 of done over all results together, or its difference, with a 95 % interval over shared episodes."""
    counts = np.stack([sum(result.done_counts() for result in part) for part in (own, other) if part], axis=1)
    drawn = counts[np.random.default_rng(0).integers(0, len(counts), (DRAWS, len(counts)))].sum(axis=1)
    scores = f1(np.concatenate([counts.sum(axis=0)[None], drawn]))
    values, sign = (scores[:, 0] - scores[:, 1], "+") if other else (scores[:, 0], "")
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return f"{values[0]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def apart(own: Sequence[Pointed], other: Sequence[Pointed]) -> list[str]:
    """Return rows of a table: errors of the pointers of runs minus those of others, over all pairs together."""
    lines = []
    for k in range(own[0].points.shape[1]):
        for period, limits in ROWS.items():
            rows = own[0].of(*limits, k)
            if not len(rows):
                continue
            episode = np.tile(own[0].episode[rows], len(own))
            cells = []
            for unit in ("px", "mm"):
                errors = [np.concatenate([getattr(r, unit)[POINTER][rows, k] for r in part]) for part in (own, other)]
                m, low, high = bootstrap(np.stack(errors, axis=1), episode)
                cells.append(f"{m:+.1f} [{low:+.1f}, {high:+.1f}]")
            head = f"| {own[0].view} | {k + 1} | {period} | {len(rows)} of {len(np.unique(episode))} episodes"
            lines.append(f"{head} | {' | '.join(cells)} |")
    return [*lines, f"{own[0].view}: F1 of done {f1_text(own, other)}"]


def pointed_by(folder: Path) -> dict[str, Pointed]:
    """Return the errors of the pointer of a run on its test episodes, by key of the view."""
    run, data = run_of(folder)
    predicted = predictions(run)
    return {key: pointed(data.judged, key, {POINTER: p}, done, says) for key, (p, done, says) in predicted.items()}


def alike(first: Pointed, second: Pointed) -> bool:
    """Return whether two results have the same moments and the same truth."""
    names = ("episode", "time", "ahead", "done", "done_known")
    same = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)
    return same and np.allclose(first.points, second.points, equal_nan=True)


def compare(folders: Sequence[Path], others: Sequence[Path]) -> None:
    """Print the errors of runs minus those of other runs: of each pair, and of all pairs together."""
    own, other = ([pointed_by(folder) for folder in part] for part in (folders, others))
    for folder, result in zip((*folders, *others), (*own, *other), strict=True):
        if result.keys() != own[0].keys() or not all(alike(result[key], own[0][key]) for key in result):
            raise SystemExit(
                f"{folders[0]} and {folder} have other views, contacts ahead or test episodes. Compare runs with the "
                f"same data, split_seed, test, views, pointer.most and pointer.horizon"
            )
    print("| view | contact | rows | moments | median px minus the other's | median mm minus the other's |")
    print("|---|---:|---|---|---|---|")
    parts = {f"{one} minus {two}": slice(i, i + 1) for i, (one, two) in enumerate(zip(folders, others, strict=True))}
    for title, part in (parts | {"all pairs": slice(None)}).items():
        print(f"\n{title}")
        for key in own[0]:
            print(*apart([by[key] for by in own[part]], [by[key] for by in other[part]]), sep="\n", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the mode that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?", type=Path)
    parser.add_argument("--runs", nargs="+", type=Path, default=[])
    parser.add_argument("--against", nargs="+", type=Path, default=[], help="as many runs, to compare --runs with")
    parser.add_argument("--cameras", nargs="+", default=["top", "left_wrist"])
    parser.add_argument("--held-out", type=float, default=0.25)
    parser.add_argument("--most", type=int, default=1, help="number of contacts ahead; 4 for tours")
    given = parser.parse_args(argv)
    if given.against:
        if given.recording is not None:
            parser.error("--against compares --runs; a recording has no pointer. Omit RECORDING")
        if len(given.runs) != len(given.against):
            parser.error(f"--against needs as many runs as --runs; got {len(given.against)} and {len(given.runs)}")
        compare(given.runs, given.against)
        return
    print("| view | contact | rows | predictor | moments | median px | median mm | px minus linear in joints |")
    print("|---|---:|---|---|---|---|---|---|")
    if given.recording is not None:
        train, held = recording(given.recording, given.cameras, given.held_out, given.most)
        for key in held.ahead:
            result = pointed(held, key, judged(train, held, key))
            print(*(line for k in range(given.most) for line in table(result, k)), sep="\n", flush=True)
    runs(given.runs)


if __name__ == "__main__":
    main()
