"""The command line: parses a verb, runs it, and prints an error in the user's input as one line.

Results go to stdout, remarks to stderr. Exit status: 0 success, 1 a check failed, 2 unusable input. A bug in this
package keeps its traceback.
"""

import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import tyro
from tyro.conf import Positional

from tactile_align.errors import DivergedError, InputError, MissingExtra
from tactile_align.verbs import FAILED, GOOD, UNUSABLE
from tactile_align.verbs.calibration import board, calibrate, label, verify
from tactile_align.verbs.data import convert, init, inspect, overlay, repair, resample, rig_from, simulate, trim
from tactile_align.verbs.training import (
    ablate,
    demo,
    doctor,
    evaluate,
    point,
    pretrain,
    report,
    rollout,
    study,
    train,
    watch,
)


def _train_help(config: Positional[Path]) -> int:
    """Train the touch-sight alignment (HSA) and a policy on HDF5, LeRobot or Zarr data. A flag overrides a field."""
    return train([str(config)])


def _pretrain_help(config: Positional[Path]) -> int:
    """Train a touch encoder on touches alone, as a start for `train`. A flag overrides a field."""
    return pretrain([str(config)])


_ON_DATA = (simulate, inspect, init, rig_from, trim, repair, resample, convert)
_ON_RIGS = (board, label, calibrate, verify, overlay)
_ON_RUNS = (doctor, ablate, evaluate, point, rollout, study, report, watch, demo)
VERBS: dict[str, Callable[..., int]] = {
    **{verb.__name__.replace("_", "-"): verb for verb in (*_ON_DATA, *_ON_RIGS)},
    "pretrain": _pretrain_help,
    "train": _train_help,
    **{verb.__name__: verb for verb in _ON_RUNS},
}
TRACEBACK, VERSION = "--traceback", "--version"
DESCRIPTION = f"""Align the touches of a robot with its camera images, check the alignment, and train a policy on it.

An error in the input is printed as one line. The option {TRACEBACK}, at any position, also prints the traceback. The
option {VERSION} alone prints the version."""


def run(argv: Sequence[str]) -> int:
    """Run one verb and return its exit status.

    Unusable input and a missing library (exit status 2) and a diverged training (exit status 1) are printed as one
    line on stderr. The traceback is printed too when `argv` contains `--traceback`. Any other exception is a bug and
    is not caught.
    """
    words = [word for word in argv if word != TRACEBACK]
    if words == [VERSION]:
        print(f"tactile-align {metadata.version('tactile-align')}")
        return GOOD
    try:
        with _remarks_on_stderr():
            return _run_verb(words)
    except BrokenPipeError:
        raise  # the program that reads our output has ended; nothing is wrong with the input
    except (InputError, OSError, MissingExtra, DivergedError) as error:
        if TRACEBACK in argv:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return FAILED if isinstance(error, DivergedError) else UNUSABLE


def _run_verb(words: Sequence[str]) -> int:
    if words and words[0] in ("train", "pretrain"):
        # The flags are the fields of the config, so the config file is read before the flags are parsed.
        return (train if words[0] == "train" else pretrain)(words[1:])
    parse = tyro.extras.subcommand_cli_from_dict
    return int(parse(VERBS, args=words, prog="tactile-align", description=DESCRIPTION, sort_subcommands=False))


class _Remarks(logging.Handler):
    """Logging handler that prints the bare message of each record on stderr, above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # imported only when a remark is printed

        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def _remarks_on_stderr() -> Iterator[None]:
    ours, handler = logging.getLogger("tactile_align"), _Remarks()
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)
