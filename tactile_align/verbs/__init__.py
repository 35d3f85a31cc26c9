"""Commands of the command line, one module per kind of input; each command calls one library function."""

import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tactile_align.checks import Report

GOOD, FAILED, UNUSABLE = 0, 1, 2
"""Exit statuses of the commands. 0: success. 1: a check failed. 2: the input could not be used."""


def show(report: "Report", as_json: bool, everything: bool = True) -> int:
    """Print a report and return the exit status: 1 if a check failed, otherwise 0.

    On a terminal, tables are wrapped to its width.

    Args:
        report: The report.
        as_json: Whether to print JSON, which always contains all checks and tables, in place of text.
        everything: Whether the text contains the checks that passed, and the tables.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(report.json() if as_json else report.text(everything, width))
    return report.exit_code
