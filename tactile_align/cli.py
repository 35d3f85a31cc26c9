"""The command line: parse a verb, run it, turn errors into one line.

Results on stdout, remarks on stderr. Exit status: 0 good, 1 a check failed, 2 unusable input.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro
from tyro.conf import Positional

from tactile_align.verbs import UNUSABLE
from tactile_align.verbs.calibration import board, calibrate, label, verify
from tactile_align.verbs.data import convert, inspect, overlay, repair, simulate, trim
from tactile_align.verbs.training import ablate, demo, doctor, evaluate, report, study, train, watch


def _train_help(config: Positional[Path]) -> int:
    """Train on HDF5 episodes, HSA beside ACT; every field of the config has a flag."""
    return train([str(config)])


VERBS: dict[str, Callable[..., int]] = {
    "simulate": simulate,
    "inspect": inspect,
    "trim": trim,
    "repair": repair,
    "convert": convert,
    "board": board,
    "label": label,
    "calibrate": calibrate,
    "verify": verify,
    "overlay": overlay,
    "train": _train_help,
    "doctor": doctor,
    "ablate": ablate,
    "evaluate": evaluate,
    "study": study,
    "report": report,
    "watch": watch,
    "demo": demo,
}
DESCRIPTION = "Line up what a robot feels with what its cameras see, prove it, and train a policy on it."


def run(argv: Sequence[str]) -> int:
    """Run one verb and return its exit status; an error is one line on stderr, without a traceback."""
    try:
        if argv and argv[0] == "train":
            # The flags of `train` are the fields of the config it names, so the file is read before they are parsed.
            return train(argv[1:])
        return int(
            tyro.extras.subcommand_cli_from_dict(
                VERBS, args=list(argv), prog="tactile-align", description=DESCRIPTION, sort_subcommands=False
            )
        )
    except (ValueError, OSError, KeyError, RuntimeError, ImportError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {text}", file=sys.stderr)
        return UNUSABLE
