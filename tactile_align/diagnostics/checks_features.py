"""The doctor's checks of features: do they span a space, and where does their loss start?"""

import math

import torch

from tactile_align.diagnostics.findings import Finding, judged
from tactile_align.diagnostics.patient import Patient
from tactile_align.features.health import (
    COLLAPSED_RANK,
    COLLAPSED_SPREAD,
    collapsed,
    effective_rank,
    eigenvalue_ratio,
    spread,
)

LOW_RANK = 3  # healthy features from scratch have 4.8 and more
NARROW = 1e-4  # eigenvalue ratio; healthy features from scratch have 4e-4 and more


def features(patient: Patient) -> list[Finding]:
    """Mean, spread, effective rank and eigenvalue ratio of both features."""
    model = patient.model.eval()
    if model.towers is None or model.hsa.weight == 0:
        return []
    with torch.no_grad():
        seen = model.see(patient.wide)
    found = []
    vectors = {f"h_tau of {name}": one.vector for name, one in seen.touches.items()}
    vectors |= {f"h_w of {name}": one.vector for name, one in seen.regions.items()}
    for name, h in vectors.items():
        rank, apart = float(effective_rank(h)), float(spread(h))
        mean, std = float(h.mean()), float(h.std())
        found.append(
            judged(
                "feature collapse",
                f"{name}: effective rank {rank:.1f} of {min(h.shape)}, spread {apart:.2g}, mean {mean:.2g}, "
                f"std {std:.2g}",
                f"rank > {LOW_RANK} good, < {COLLAPSED_RANK:g} bad; spread < {COLLAPSED_SPREAD:g} bad",
                broken=collapsed(rank, apart),
                warn=rank < LOW_RANK and h.shape[1] >= 16 and len(h) > 16,
                why="features in one line or one point cannot tell moments apart",
                advice="lower optimiser.lr_encoder, raise hsa.temperature, and check that images differ",
            )
        )
        if not math.isfinite(rank):
            continue
        even = float(eigenvalue_ratio(h))
        found.append(
            judged(
                "eigenvalue ratio",
                f"{name}: {even:.1e}",
                "> 1e-3 good, < 1e-4 bad",
                warn=even < NARROW,
                why="the features use a few directions only",
                advice="look at the same after some steps; if it stays, there are too few rivals or too little data",
            )
        )
    return found


def against_chance(patient: Patient) -> Finding:
    """The alignment loss at the start, beside chance."""
    with torch.no_grad():
        log = patient.losses(patient.batch).log
    if "hsa" not in log:
        return judged("loss against chance", "no alignment loss in this run", "-")
    views = [view.key for view in patient.model.views]
    hsa = sum(float(log[f"hsa/{key}"]) for key in views) / len(views)
    chance = sum(float(log[f"chance/{key}"]) for key in views) / len(views)
    pairs = min(int(log[f"pairs/{key}"]) for key in views)
    return judged(
        "loss against chance",
        f"{hsa:.2f} at the start, chance {chance:.2f}, at least {pairs} pairs in a batch",
        "finite, from half of chance up to chance plus 2 / temperature; some pairs",
        broken=not math.isfinite(hsa) or pairs == 0 or chance == 0.0,
        warn=hsa < 0.5 * chance and patient.model.towers is not None and patient.model.towers.scratch,
        why="far below chance before any step something leaks from touch to view; without pairs nothing is learnt",
        advice="check that touch and view images differ; raise contact_share or the batch size for more pairs",
    )
