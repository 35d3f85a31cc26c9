"""The doctor's checks of data: what comes in at the door, before any network."""

import numpy as np

from tactile_align.datasets.normalisation import Statistics
from tactile_align.diagnostics.checks_images import image_checks
from tactile_align.diagnostics.checks_pairs import pair_checks
from tactile_align.diagnostics.findings import Finding, judged
from tactile_align.diagnostics.patient import Patient
from tactile_align.training.data import LowDim


def data_checks(patient: Patient) -> list[Finding]:
    """Return all findings about data."""
    return [*image_checks(patient), action_diversity(patient), statistics(patient), *pair_checks(patient)]


def action_diversity(patient: Patient) -> Finding:
    """How many action columns move at all."""
    action = patient.data.train.low_dim()
    moving = np.concatenate([a for _, a in action]).std(axis=0)
    return judged(
        "action diversity",
        f"{int((moving > 1e-4).sum())} of {len(moving)} action columns move",
        "at least one",
        broken=not (moving > 1e-4).any(),
        why="constant actions are learnt at once and mean nothing",
        advice="check the action stream of the layout",
    )


def statistics(patient: Patient) -> Finding:
    """Whether mean and spread are those of the training episodes."""
    given = patient.data.statistics
    own = Statistics.of(LowDim(qpos, action) for qpos, action in patient.data.train.low_dim())
    gap = max(
        float(np.abs(np.subtract(getattr(given, name), getattr(own, name))).max())
        for name in ("qpos_mean", "qpos_std", "action_mean", "action_std")
    )
    scale = max(1e-9, max(own.qpos_std + own.action_std))
    other = given.episodes != own.episodes or gap > 1e-6 * scale
    normal = patient.batch["qpos"]
    wild = float(normal.abs().max())
    return judged(
        "statistics",
        f"of {given.episodes} episodes (training has {own.episodes}), {gap:.1e} apart; normalised joints up to "
        f"{wild:.1f}",
        "those of the training episodes alone; joints within 12",
        broken=other or wild > 12,
        why="statistics that include held-out episodes make validation too kind; wrong ones put inputs out of range",
        advice="take them from the training split: Statistics.of(training episodes)",
    )
