"""The verbs of the command line, by what they act on; each is a thin call of one library function."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tactile_align.checks import Report

GOOD, FAILED, UNUSABLE = 0, 1, 2
"""Exit status: success, a check failed, unusable input."""


def show(report: "Report", as_json: bool) -> int:
    """Print a report as text or as JSON and return its exit status."""
    print(report.json() if as_json else report.text())
    return report.exit_code
