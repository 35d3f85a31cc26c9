"""What a check measured, what was needed, how it came out and what to do next."""

import datetime
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["pass", "warn", "fail", "info"]
Verdict = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        name: What was checked.
        measured: What came, with its unit.
        needed: What passes, with its unit; '' where nothing is judged.
        outcome: pass, warn, fail, or info where nothing is judged.
        advice: What to do, in plain words; '' where there is nothing to do.
        value: The number behind `measured`, when there is one.
    """

    name: str
    measured: str
    needed: str = ""
    outcome: Outcome = "info"
    advice: str = ""
    value: float | None = None


def graded(
    name: str,
    value: float,
    good: float,
    poor: float,
    unit: str = "",
    advice: str = "",
    form: str = ".3g",
    measured: str | None = None,
) -> Check:
    """Judge a number: pass up to `good`, warn up to `poor`, fail beyond.

    With good > poor large numbers are good. nan fails: what could not be measured is not proven. A `form` in percent
    shows the limits so, too.
    """
    less = good <= poor
    sign = 1 if less else -1
    outcome: Outcome = "fail"
    if sign * value <= sign * good:
        outcome = "pass"
    elif sign * value <= sign * poor:
        outcome = "warn"
    symbol = "<=" if less else ">="
    limits = [f"{limit:.0%}" if form.endswith("%") else f"{limit:g}" for limit in (good, poor)]
    return Check(
        name,
        f"{value:{form}}{unit}" if measured is None else measured,
        f"{symbol} {limits[0]}{unit}" + (f" (fail {'>' if less else '<'} {limits[1]})" if poor != good else ""),
        outcome,
        "" if outcome == "pass" else advice,
        float(value),
    )


@dataclass(frozen=True)
class Verification:
    """The verdict on a rig, with its evidence.

    Attributes:
        subject: What was verified, in words.
        checks: One per line of the table.
        data_hash: Of the recordings it rests on.
        when: UTC, ISO 8601, seconds.
        details: Further tables by name, each a list of rows, for people who want to know more.
    """

    subject: str
    checks: tuple[Check, ...]
    data_hash: str
    when: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    details: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """fail when any check fails, else warn when any warns, else pass."""
        outcomes = {check.outcome for check in self.checks}
        return "fail" if "fail" in outcomes else "warn" if "warn" in outcomes else "pass"

    @property
    def exit_code(self) -> int:
        """0 when nothing fails (warnings allowed), else 1."""
        return int(self.verdict == "fail")

    def check(self, name: str) -> Check:
        """Return a check by name; an unknown name raises and lists the known ones."""
        for one in self.checks:
            if one.name == name:
                return one
        raise KeyError(f"no check '{name}'; there are: {', '.join(one.name for one in self.checks)}")

    def text(self) -> str:
        """Return the table and, below, what to do about each check that did not pass."""
        rows = [(c.name, c.measured, c.needed, c.outcome) for c in self.checks]
        lines = [self.subject, "", *table(("check", "measured", "needed", "verdict"), rows), ""]
        for name, details in self.details.items():
            if details:
                cells = [tuple(_cell(value) for value in row.values()) for row in details]
                lines += [name, *table(tuple(details[0]), cells), ""]
        todo = [check for check in self.checks if check.advice]
        if todo:
            lines += ["What to do next:", *(f"  [{c.outcome}] {c.name}: {c.advice}" for c in todo), ""]
        lines.append(f"verdict: {self.verdict}")
        return "\n".join(lines)

    def json(self) -> str:
        """Return everything as JSON; numbers that do not exist are null."""
        data = {
            "subject": self.subject,
            "verdict": self.verdict,
            "when": self.when,
            "data_hash": self.data_hash,
            "checks": [asdict(check) for check in self.checks],
            "details": self.details,
        }
        return json.dumps(_finite(data), indent=2, allow_nan=False)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of a text table with aligned columns."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    return [lines[0], "  ".join("-" * w for w in widths), *lines[1:]]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
