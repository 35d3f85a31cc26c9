"""Commands of the command line, one module per kind of input; each command calls one library function."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tactile_align.checks import Report

GOOD, FAILED, UNUSABLE = 0, 1, 2
"""Exit statuses. 0: success. 1: a check failed. 2: the input could not be used."""


def show(report: "Report", as_json: bool) -> int:
    """Print a report as text or as JSON and return its exit status."""
    print(report.json() if as_json else report.text())
    return report.exit_code
