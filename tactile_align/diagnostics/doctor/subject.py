"""What the doctor looks at: a config, its data, its model, and one batch of it."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tactile_align.config.train import TrainConfig
from tactile_align.evenly import evenly
from tactile_align.moments.augment import augment
from tactile_align.moments.batch import MomentBatch
from tactile_align.moments.sampling import MomentSampler
from tactile_align.policies.aligned import AlignedPolicy, Losses
from tactile_align.training.data import Data

ROWS = 64


@dataclass(frozen=True)
class Patient:
    """One training run under examination.

    Attributes:
        config: The run.
        data: Its moments.
        model: Its network, on the CPU.
        raw: (B moments) the first training batch, as the data set gives it.
        batch: The same at the encoders' door, without random changes, with latent noise.
        wide: Up to 64 contact moments at the encoders' door, spread over the episodes.
    """

    config: TrainConfig
    data: Data
    model: AlignedPolicy
    raw: MomentBatch
    batch: MomentBatch
    wide: MomentBatch

    def losses(self, batch: MomentBatch, model: AlignedPolicy | None = None) -> Losses:
        """Return both losses of a batch in eval mode: no dropout, so that two calls compare."""
        return (model or self.model).eval().losses(batch)


def admit(config: TrainConfig, data: Data, model: AlignedPolicy) -> Patient:
    """Draw the batches a diagnosis is made on."""
    both = data.contact.any() and not data.contact.all()
    share = config.contact_share if both else None  # too few contacts are a finding, not an error
    sampler = MomentSampler(data.contact, config.batch_size, share, config.seed, 0, 1)
    raw = data.train.batch(sampler.batch(0))
    pool = np.flatnonzero(data.contact) if data.contact.any() else np.arange(len(data.train))
    spread = pool[evenly(len(pool), ROWS)]
    wide = data.train.batch(spread)
    return Patient(config, data, model, raw, _at_the_door(raw, config, model), _at_the_door(wide, config, model))


def _at_the_door(batch: MomentBatch, config: TrainConfig, model: AlignedPolicy) -> MomentBatch:
    at_door = augment(batch, config.augment)
    if model.act is None:
        return at_door
    generator = torch.Generator().manual_seed(0)
    return replace(at_door, noise=torch.randn(len(batch), model.act.config.latent_dim, generator=generator))


def total_of(losses: Losses) -> Tensor:
    """Return the sum of the losses that were computed."""
    parts = [part for part in (losses.action, losses.alignment) if part is not None]
    return torch.stack(parts).sum()


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
