"""Tests of the suite over many more cases than it takes itself.

    python -m tests.benchmarks.sweeps [NAME ...] [--first SEED]

`--first` chooses the first seed of `mutated_containers`, so that a mend is tried on changes that it has not seen.
Prints a row a sweep when it is done, so a run that was stopped goes on with the names still missing; exits 1 where a
case failed.
"""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.datasets import test_mutations
from tests.datasets.containers import test_mutations as test_container_mutations
from tests.kinematics import test_controller
from tests.losses import test_hsa

Case = Callable[[Path], None]


def planted_traps() -> Iterator[Case]:
    """Each trap in 12 files of controller poses."""
    for kind in test_controller.PLANTED:
        for seed in range(1000, 1012):
            yield partial(test_controller.test_a_planted_trap_is_named, kind, seed)


def other_models() -> Iterator[Case]:
    """Poses of each other arm, from 6 files."""
    for name in test_controller.OTHERS:
        for seed in range(1000, 1006):
            yield partial(test_controller.test_the_right_other_model_is_named, name, seed)


def clean_poses() -> Iterator[Case]:
    """40 files of clean poses of three arms."""
    for name in ("nova2", "nova5", "cr5"):
        for seed in range(1000, 1040):
            yield partial(test_controller.test_clean_files_pass_in_silence, name, seeds=range(seed, seed + 1))


def loss_gradients() -> Iterator[Case]:
    """Every combination of the loss's options against finite differences."""
    for options in test_hsa.GRADIENTS:
        yield lambda _, options=options: test_hsa.test_gradients_agree_with_finite_differences(*options)


def mutated_files() -> Iterator[Case]:
    """500 episodes whose structure is changed, and 500 with flipped bytes."""
    yield partial(test_mutations.test_a_mutated_structure_is_read_or_gives_one_clear_error, seeds=range(500))
    yield partial(test_mutations.test_flipped_bytes_never_give_an_unnamed_error, seeds=range(500))


def mutated_containers(first: int = 0) -> Iterator[Case]:
    """300 changes of a LeRobotDataset of each version, and of a Zarr store of each form, also with shards."""
    for name in (*test_container_mutations.CONTAINERS, test_container_mutations.SHARDS):
        yield lambda folder, name=name: test_container_mutations.require_named(
            folder / "good", name, range(first, first + 300), folder
        )


SWEEPS: dict[str, Callable[[], Iterator[Case]]] = {
    one.__name__: one
    for one in (planted_traps, other_models, clean_poses, loss_gradients, mutated_files, mutated_containers)
}


def failures(sweep: Callable[[], Iterator[Case]]) -> tuple[int, int]:
    """Return how many cases a sweep has and how many of them fail; what failed goes to stderr."""
    cases = failed = 0
    for case in sweep():
        cases += 1
        with tempfile.TemporaryDirectory() as folder:
            try:
                case(Path(folder))
            except AssertionError:
                failed += 1
                traceback.print_exc()
    return cases, failed


def main(names: list[str], first: int = 0) -> int:
    """Print the table; return 1 where a case failed."""
    bad = 0
    sweeps = SWEEPS | {"mutated_containers": partial(mutated_containers, first)}
    print("| sweep | cases | failed |\n|---|---:|---:|")
    for name in names:
        cases, failed = failures(sweeps[name])
        bad += failed
        print(f"| {name} | {cases} | {failed} |", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SWEEPS))
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in SWEEPS]:
        parser.error(f"no sweep '{unknown[0]}'; there are: {', '.join(SWEEPS)}")
    sys.exit(main(options.names or list(SWEEPS), options.first))
