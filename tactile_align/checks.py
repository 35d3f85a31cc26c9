"""Checks and reports: what every judging command measured, what it was held against, and what to do."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from tactile_align.errors import InputError

if TYPE_CHECKING:
    from jinja2 import Template

Status = Literal["pass", "info", "warn", "fail"]
"""info: a fact that nothing judges."""
GRAVEST_FIRST: tuple[Status, ...] = ("fail", "warn", "pass", "info")


@dataclass(frozen=True)
class Limit:
    """Limits of a value: it passes up to `good`, warns up to `poor` and fails beyond.

    Attributes:
        title: Name of the check for people; {} takes what it was measured on, such as a view.
        good: Last value that passes. `good` > `poor`: large values are good.
        poor: Last value that only warns; equal to `good` where nothing warns, infinite where nothing fails.
        unit: Unit of the value, with its space: " px"; "" for a ratio.
        form: Format of the value, as in `format`.
        at_least: For `good` == `poor`: large values are good.
        why: Why the value matters, for the docs and for a check that did not pass.
        advice: What to do about a check that did not pass, unless the check itself is given an advice.
    """

    title: str
    good: float
    poor: float
    unit: str = ""
    form: str = ".3g"
    at_least: bool = False
    why: str = ""
    advice: str = ""

    @property
    def large_is_good(self) -> bool:
        """Whether values above the limit pass."""
        return self.good > self.poor or (self.good == self.poor and self.at_least)

    def status(self, value: float) -> Status:
        """Return pass, warn or fail; nan fails, since what could not be measured is not shown."""
        sign = -1 if self.large_is_good else 1
        if sign * value <= sign * self.good:
            return "pass"
        return "warn" if sign * value <= sign * self.poor else "fail"

    def text(self) -> str:
        """Return the limits in words: "<= 3 px (fail > 6)"."""
        good, poor = (f"{100 * x:g}%" if self.form.endswith("%") else f"{x:g}" for x in (self.good, self.poor))
        passes, fails = (">=", "<") if self.large_is_good else ("<=", ">")
        worst = f" (fail {fails} {poor})" if self.good != self.poor and math.isfinite(self.poor) else ""
        return f"{passes} {good}{self.unit}{worst}"


Limits = Mapping[str, Limit]
"""The limits of one command, by the kind of check: the part of an id before its first slash."""


@dataclass(frozen=True)
class Check:
    """One judged line.

    Attributes:
        id: Stable name for programs: a kind, and after slashes what it was measured on ("iou-median/wrist/tactile1").
        title: Name for people.
        status: pass, warn or fail; info where nothing is judged.
        measured: What came, in words, with its unit.
        value: The number behind `measured`; None where there is none.
        unit: Its unit; "" for a ratio.
        limit: What passes; "" where nothing is judged.
        why: Why it matters; "" where the check passed.
        advice: What to do; "" where there is nothing to do.
    """

    id: str
    title: str
    status: Status
    measured: str
    value: float | None = None
    unit: str = ""
    limit: str = ""
    why: str = ""
    advice: str = ""

    @property
    def kind(self) -> str:
        """The id's part before its first slash."""
        return self.id.partition("/")[0]


def graded(
    limits: Limits, kind: str, value: float, *on: str, advice: str = "", why: str = "", measured: str | None = None
) -> Check:
    """Return the check of a number against the limits of its kind.

    Args:
        limits: Table of the command.
        kind: Key of the table.
        value: The number; nan fails.
        on: What it was measured on, such as camera and sensor; goes into the id and the title.
        advice: What to do where it does not pass; "" takes the limit's.
        why: Why it matters; "" takes the limit's.
        measured: The value in words; None formats it as the limit states.
    """
    limit = limits[kind]
    status = limit.status(value)
    good = status == "pass"
    return Check(
        id="/".join((kind, *on)),
        title=limit.title.format(*on) if "{" in limit.title else limit.title,
        status=status,
        measured=f"{value:{limit.form}}{limit.unit}" if measured is None else measured,
        value=float(value),
        unit=limit.unit.strip(),
        limit=limit.text(),
        why="" if good else why or limit.why,
        advice="" if good else advice or limit.advice,
    )


def decided(
    id: str,
    title: str,
    good: bool,
    measured: str,
    *,
    limit: str = "",
    value: float | None = None,
    advice: str = "",
    otherwise: Status = "warn",
) -> Check:
    """Return a check that a condition decides rather than a number: pass, or `otherwise` with the advice."""
    status: Status = "pass" if good else otherwise
    return Check(id, title, status, measured, value, limit=limit, advice="" if good else advice)


def named(kind: str, name: str, evidence: str, advice: str, status: Status = "fail") -> Check:
    """Return the check "kind/name" of a known cause, such as "fault/mm-for-m", that explains what came."""
    return Check(f"{kind}/{name}", f"{kind.title()}: {name.replace('-', ' ')}", status, evidence, advice=advice)


Changed = TypeVar("Changed")


@dataclass(frozen=True)
class Hypothesis(Generic[Changed]):
    """One explanation of data that do not fit: the data, or the rig, with one thing changed.

    Attributes:
        name: Stable name of what is changed; several hypotheses of one kind may share it.
        advice: What to change if the hypothesis holds.
        changed: The data, or the rig, so changed.
        evidence: What the hypothesis states, in words.
    """

    name: str
    advice: str
    changed: Changed
    evidence: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers behind the checks, for people who want to know more.

    Attributes:
        title: What the rows are.
        head: (C,) names of the columns.
        rows: (R, C) plain values.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, title: str, records: Sequence[Mapping[str, Any]]) -> "Table":
        """Return a table of records that share their keys."""
        head = tuple(records[0]) if records else ()
        return cls(title, head, tuple(tuple(record[key] for key in head) for record in records))

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries by column."""
        return [dict(zip(self.head, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Report:
    """The checks of one command on one subject, in three forms: text, JSON and HTML.

    Attributes:
        command: The verb that judged.
        subject: What it judged, in words.
        checks: In the order in which they are to be read; ids are unique.
        tables: Numbers behind the checks.
        facts: Further plain data for JSON, such as the hash of the recordings.
    """

    command: str
    subject: str
    checks: tuple[Check, ...]
    tables: tuple[Table, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [check.id for check in self.checks]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise KeyError(f"{self.command} gives two checks the same id: {', '.join(twice)}")

    @property
    def verdict(self) -> Literal["pass", "warn", "fail"]:
        """fail when any check fails, else warn when any warns, else pass."""
        statuses = {check.status for check in self.checks}
        return "fail" if "fail" in statuses else "warn" if "warn" in statuses else "pass"

    @property
    def exit_code(self) -> int:
        """0 when nothing fails (warnings allowed), else 1."""
        return int(self.verdict == "fail")

    def check(self, id: str) -> Check:
        """Return a check by its id.

        Raises:
            InputError: No such check was made.
        """
        for one in self.checks:
            if one.id == id:
                return one
        made = ", ".join(one.id for one in self.checks) or "none"
        raise InputError(f"no check '{id}' was made by {self.command}; made were: {made}")

    def text(self) -> str:
        """Return the table for people and, below, what to do about each check that did not pass."""
        rows = [(c.status, c.id, c.title, c.measured, c.limit) for c in self.checks]
        lines = [self.subject, "", *text_table(("", "id", "check", "measured", "needed"), rows), ""]
        for table in self.tables:
            if table.rows:
                lines += [table.title, *text_table(table.head, [[_cell(x) for x in row] for row in table.rows]), ""]
        todo = [check for check in self.checks if check.advice]
        if todo:
            lines.append("What to do next:")
            for check in todo:
                why = f" {check.why}." if check.why else ""
                lines.append(f"  [{check.status}] {check.title}:{why} {check.advice}")
            lines.append("")
        lines.append(f"verdict: {self.verdict}")
        return "\n".join(lines)

    def data(self) -> dict[str, Any]:
        """Return everything as plain data; numbers that are not finite become None."""
        data = {
            "command": self.command,
            "subject": self.subject,
            "verdict": self.verdict,
            "checks": [asdict(check) for check in self.checks],
            "tables": {table.title: table.records() for table in self.tables},
        }
        plain: dict[str, Any] = finite({**data, **self.facts})
        return plain

    def json(self) -> str:
        """Return `data` as JSON."""
        return json.dumps(self.data(), indent=2, allow_nan=False)

    def html(self) -> str:
        """Return a fragment of HTML: the checks as a table, every text escaped."""
        return _template().render(report=self)


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a text table with aligned columns, as wide as its cells."""
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    # Plain hyphens below the head, so that every console and every encoding can show it.
    plain = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    drawn = RichTable(box=plain, pad_edge=False, show_edge=False)
    for name in head:
        drawn.add_column(Text(name), no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console = Console(width=100_000, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(drawn)
    return [line.rstrip() for line in capture.get().rstrip("\n").split("\n")]


def finite(value: Any) -> Any:
    """Return plain data with every number that is not finite replaced by None, as JSON has none."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@cache
def _template() -> "Template":
    from jinja2 import Environment

    source = resources.files("tactile_align").joinpath("checks.html").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
