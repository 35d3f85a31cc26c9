"""What a check says: what was seen, why it matters, what to change."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["good", "note", "warn", "broken"]
ORDER: tuple[Status, ...] = ("broken", "warn", "note", "good")
TITLES = {"good": "ok", "note": "note", "warn": "WARN", "broken": "BROKEN"}


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis.

    Attributes:
        check: Its name.
        status: good; note: worth knowing; warn: look at it; broken: training on will not work.
        seen: What was measured.
        threshold: What it is held against.
        why: Why it matters; empty where all is well.
        advice: What to change; empty where all is well.
    """

    check: str
    status: Status
    seen: str
    threshold: str
    why: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings of `diagnose`.

    Attributes:
        findings: In the order of the checks.
        tables: Further tables by title: rows of text, the first row is the head.
    """

    findings: tuple[Finding, ...]
    tables: dict[str, tuple[tuple[str, ...], ...]]

    @property
    def broken(self) -> bool:
        """Whether any check is broken."""
        return any(finding.status == "broken" for finding in self.findings)

    def of(self, check: str) -> Finding:
        """Return the worst finding of a check.

        Raises:
            KeyError: No such check was made.
        """
        found = [finding for finding in self.findings if finding.check == check]
        if not found:
            raise KeyError(
                f"no check '{check}' was made; there are {', '.join(sorted({f.check for f in self.findings}))}"
            )
        return min(found, key=lambda finding: ORDER.index(finding.status))

    def text(self, details: bool = True) -> str:
        """Return the table for people; `details` adds the parameters and gradients by module."""
        width = max(len(finding.check) for finding in self.findings)
        lines = []
        for finding in self.findings:
            lines.append(f"{TITLES[finding.status]:6} {finding.check:{width}}  {finding.seen}  [{finding.threshold}]")
            if finding.why:
                lines.append(f"{'':{width + 9}}why: {finding.why}")
            if finding.advice:
                lines.append(f"{'':{width + 9}}do:  {finding.advice}")
        counts = {status: sum(f.status == status for f in self.findings) for status in ORDER}
        summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        shown = [_table(title, rows) for title, rows in self.tables.items()] if details else []
        return "\n\n".join(["\n".join(lines), *shown, summary])

    def json(self) -> str:
        """Return everything as JSON."""
        data: dict[str, Any] = {"broken": self.broken, "findings": [asdict(finding) for finding in self.findings]}
        return json.dumps(data | {"tables": self.tables}, indent=2)


def judged(
    check: str, seen: str, threshold: str, *, broken: bool = False, warn: bool = False, why: str = "", advice: str = ""
) -> Finding:
    """Return a finding; why and advice are said only where something is wrong."""
    status: Status = "broken" if broken else "warn" if warn else "good"
    return Finding(check, status, seen, threshold, why if status != "good" else "", advice if status != "good" else "")


def _table(title: str, rows: Iterable[tuple[str, ...]]) -> str:
    cells = list(rows)
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "  ".join(
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([title, *lines])
