"""Checks and reports: each check has a measured value, a limit, a status and advice."""

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
"""pass, warn, fail: the result of a comparison with a limit. info: a fact without a limit."""
GRAVEST_FIRST: tuple[Status, ...] = ("fail", "warn", "pass", "info")


@dataclass(frozen=True)
class Limit:
    """Limits of a measured value. A value up to `good` passes, a value up to `poor` warns, and any other value fails.

    Attributes:
        title: Name of the check for people; {} is replaced by the measured object, such as a view.
        good: Last value that passes. If `good` > `poor`, large values are good.
        poor: Last value that warns. `poor` equal to `good`: no value warns. `poor` infinite: no value fails.
        unit: Unit of the value with a leading space, such as " px"; "" for a ratio.
        form: Python format specification with which the value is printed, such as ".3g".
        at_least: Whether large values are good; used only when `good` equals `poor`.
        why: Why the value matters, for the docs and for a check that did not pass.
        advice: What to do about a check that did not pass, when the check has no advice of its own.
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
        """True when values above the limit pass."""
        return self.good > self.poor or (self.good == self.poor and self.at_least)

    def status(self, value: float) -> Status:
        """Return the status of a measured value: pass, warn or fail.

        nan fails, because a value that could not be measured proves nothing.
        """
        sign = -1 if self.large_is_good else 1
        if sign * value <= sign * self.good:
            return "pass"
        return "warn" if sign * value <= sign * self.poor else "fail"

    def text(self) -> str:
        """Return the limits `good` and `poor` as text with the unit, such as "<= 3 px (fail > 6)"."""
        good, poor = (f"{100 * x:g}%" if self.form.endswith("%") else f"{x:g}" for x in (self.good, self.poor))
        passes, fails = (">=", "<") if self.large_is_good else ("<=", ">")
        worst = f" (fail {fails} {poor})" if self.good != self.poor and math.isfinite(self.poor) else ""
        return f"{passes} {good}{self.unit}{worst}"


Limits = Mapping[str, Limit]
"""Limits of one command by kind of check; the kind is the part of a check's id before the first slash."""


@dataclass(frozen=True)
class Check:
    """Result of one check: one line of a report.

    Attributes:
        id: Stable name for programs: the kind of check and the measured objects, separated by slashes
            ("iou-median/wrist/tactile1").
        title: Name for people.
        status: pass, warn or fail; info when there is no limit.
        measured: Measured value as text, with its unit.
        value: Measured number; None when the result is not a number.
        unit: Unit of `value`; "" for a ratio.
        limit: Range of the values that pass, as text; "" when there is no limit.
        why: Why the value matters; "" when the check passed.
        advice: What to do; "" when nothing needs to be done.
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
        """The part of the check's `id` before the first slash, such as "iou-median"."""
        return self.id.partition("/")[0]


def graded(
    limits: Limits, kind: str, value: float, *on: str, advice: str = "", why: str = "", measured: str | None = None
) -> Check:
    """Return a check that compares a number with the limits of its kind of check.

    Args:
        limits: Limits of the command, by kind of check.
        kind: Kind of the check, a key of `limits`.
        value: Measured number; nan fails.
        on: Names of the measured objects, such as camera and sensor; they are added to the id and the title.
        advice: What to do when the check does not pass; "" uses the advice of the limit.
        why: Why the value matters; "" uses the `why` of the limit.
        measured: The value as text; None formats the value with the limit's `form` and unit.
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
    """Return a check without numeric limits: pass if `good` is true, otherwise status `otherwise` with the advice."""
    status: Status = "pass" if good else otherwise
    return Check(id, title, status, measured, value, limit=limit, advice="" if good else advice)


def named(kind: str, name: str, evidence: str, advice: str, status: Status = "fail") -> Check:
    """Return a check that reports a known cause of bad data; its id is "kind/name", such as "fault/mm-for-m"."""
    return Check(f"{kind}/{name}", f"{kind.title()}: {name.replace('-', ' ')}", status, evidence, advice=advice)


Changed = TypeVar("Changed")


@dataclass(frozen=True)
class Hypothesis(Generic[Changed]):
    """Hypothesis that one changed property of the data or of the rig would make the data fit the rig.

    Attributes:
        name: Stable name of the changed property; several hypotheses of one kind may share it.
        advice: What to change if the hypothesis is true.
        changed: The data or the rig with that property changed.
        evidence: Content of the hypothesis, as text.
    """

    name: str
    advice: str
    changed: Changed
    evidence: str = ""


@dataclass(frozen=True)
class Table:
    """Table of the numbers behind the checks.

    Attributes:
        title: Description of the rows.
        head: (C,) names of the columns.
        rows: (R, C) plain values.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, title: str, records: Sequence[Mapping[str, Any]]) -> "Table":
        """Return a table with one row per record; all records have the same keys, which become the column names."""
        head = tuple(records[0]) if records else ()
        return cls(title, head, tuple(tuple(record[key] for key in head) for record in records))

    def records(self) -> list[dict[str, Any]]:
        """Return each row as a dictionary from column name to value."""
        return [dict(zip(self.head, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Todo:
    """Advice of one or more checks.

    Attributes:
        status: Status that the checks share.
        advice: Advice that the checks share.
        checks: The checks, in the order of the report; at least one.
    """

    status: Status
    advice: str
    checks: tuple[Check, ...]

    @property
    def title(self) -> str:
        """Title of the only check, or the number, kinds and objects of the checks."""
        if len(self.checks) == 1:
            return self.checks[0].title
        return f"{len(self.checks)} checks ({_places(self.checks)})"

    @property
    def text(self) -> str:
        """Reasons why the values matter, each once, then the advice."""
        whys = [f"{why}." for why in dict.fromkeys(check.why for check in self.checks) if why]
        return " ".join([*whys, self.advice]).strip()


def _places(checks: Sequence[Check]) -> str:
    """Return the ids of the checks; objects with equal kinds are listed together, after "of"."""
    kinds: dict[str, list[str]] = {}
    for check in checks:
        kinds.setdefault(check.id.partition("/")[2], []).append(check.kind)
    objects: dict[tuple[str, ...], list[str]] = {}
    for name, of in kinds.items():
        objects.setdefault(tuple(dict.fromkeys(of)), []).append(name)
    return "; ".join(
        f"{of[0]}/{names[0]}".removesuffix("/")
        if len(of) == len(names) == 1
        else ", ".join(of) + (f" of {', '.join(names)}" if names != [""] else "")
        for of, names in objects.items()
    )


@dataclass(frozen=True)
class Report:
    """Report of the checks that one command made on one subject; it has three forms: text, JSON and HTML.

    Attributes:
        command: The command that made the checks.
        subject: The thing that was checked, as text.
        checks: The checks in reading order; ids are unique.
        tables: Numbers behind the checks.
        facts: Further plain data for the JSON form, such as the hash of the recordings.
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
            raise KeyError(f"several checks of {self.command} share an id: {', '.join(twice)}. Give each its own id")

    @property
    def verdict(self) -> Literal["pass", "warn", "fail"]:
        """Verdict of the report: fail if any of its checks fails, else warn if any check warns, else pass."""
        statuses = {check.status for check in self.checks}
        return "fail" if "fail" in statuses else "warn" if "warn" in statuses else "pass"

    @property
    def exit_code(self) -> int:
        """Exit status of the command: 1 if any check fails, else 0 (also with warnings)."""
        return int(self.verdict == "fail")

    def check(self, id: str) -> Check:
        """Return a check by its id.

        Raises:
            InputError: The report has no check with this id.
        """
        for one in self.checks:
            if one.id == id:
                return one
        made = ", ".join(one.id for one in self.checks) or "none"
        raise InputError(f"the report of {self.command} has no check '{id}'. Use one of its ids: {made}")

    @property
    def summary(self) -> str:
        """First line of the report: its verdict, the number of checks by status, and the checks that did not pass."""
        statuses = [check.status for check in self.checks]
        counts = ", ".join(f"{statuses.count(one)} {one}" for one in GRAVEST_FIRST if one in statuses)
        bad = [check for check in self.checks if check.status in ("fail", "warn")]
        return f"{self.verdict}: {counts or 'no checks'}" + (f". Not in order: {_places(bad)}" if bad else "")

    @property
    def todo(self) -> tuple[Todo, ...]:
        """What to do next, the gravest first; checks of one status that share their advice are one entry."""
        shared: dict[tuple[Status, str], list[Check]] = {}
        for check in self.checks:
            if check.advice or check.why:
                shared.setdefault((check.status, check.advice or check.why), []).append(check)
        groups = sorted(shared.items(), key=lambda item: GRAVEST_FIRST.index(item[0][0]))
        return tuple(Todo(status, checks[0].advice, tuple(checks)) for (status, _), checks in groups)

    def text(self, everything: bool = True, width: int | None = None) -> str:
        """Return the report as text: a summary, a table of the checks, and what to do about those that did not pass.

        Args:
            everything: Whether the text contains the checks that passed and the tables of numbers. If not, a line
                states how many checks passed.
            width: Number of characters to which the lines of tables are wrapped; None: they are not.
        """
        shown = [check for check in self.checks if everything or check.status != "pass"]
        lines = [self.subject, self.summary, ""]
        if shown:
            rows = [(c.status, c.id, c.title, c.measured, c.limit) for c in shown]
            lines += [*text_table(("", "id", "check", "measured", "needed"), rows, width), ""]
        if len(shown) < len(self.checks):
            lines += [f"passed: {len(self.checks) - len(shown)} (--all shows them)", ""]
        for table in self.tables if everything else ():
            if table.rows:
                cells = [[_cell(x) for x in row] for row in table.rows]
                lines += [table.title, *text_table(table.head, cells, width), ""]
        if self.todo:
            lines += ["What to do next:", *(f"  [{one.status}] {one.title}: {one.text}" for one in self.todo), ""]
        lines.append(f"verdict: {self.verdict}")
        return "\n".join(lines)

    def data(self) -> dict[str, Any]:
        """Return the report as dictionaries, lists, texts and numbers for JSON; non-finite numbers become None."""
        data = {
            "command": self.command,
            "subject": self.subject,
            "verdict": self.verdict,
            "summary": self.summary,
            "todo": [
                {"status": one.status, "advice": one.text, "checks": [check.id for check in one.checks]}
                for one in self.todo
            ],
            "checks": [asdict(check) for check in self.checks],
            "tables": {table.title: table.records() for table in self.tables},
        }
        plain: dict[str, Any] = finite({**data, **self.facts})
        return plain

    def json(self) -> str:
        """Return the report as JSON text: the result of `data()`."""
        return json.dumps(self.data(), indent=2, allow_nan=False)

    def html(self) -> str:
        """Return the report as an HTML fragment: the checks as a table, with all texts escaped."""
        return _template().render(report=self)


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None) -> list[str]:
    """Return the lines of a text table with aligned columns; cells are never cut.

    If `width` is not None, cells are wrapped so that no line is longer; the column "id" is not, if the others keep
    half of the width, so that ids can be copied.
    """
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    # A line of plain hyphens below the head: every console and encoding can show it.
    plain = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    drawn = RichTable(box=plain, pad_edge=False, show_edge=False)
    rows = list(rows)
    for i, name in enumerate(head):
        is_id = name == "id" and 2 * max((len(row[i]) for row in rows), default=0) <= (width or 0)
        drawn.add_column(Text(name), no_wrap=width is None or is_id, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console = Console(width=width or 100_000, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(drawn)
    return [line.rstrip() for line in capture.get().rstrip("\n").split("\n")]


def finite(value: Any, words: bool = False) -> Any:
    """Return plain data without non-finite numbers, because JSON cannot store such numbers.

    Args:
        value: The data.
        words: Whether such a number becomes its name, "nan", "inf" or "-inf"; otherwise it becomes None.
    """
    if isinstance(value, Mapping):
        return {key: finite(entry, words) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry, words) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value)) if words else None
    return value


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@cache
def _template() -> "Template":
    from jinja2 import Environment

    source = resources.files("tactile_align").joinpath("checks.html").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
