"""The doctor's checks of features: do they span a space, and where does their loss start?"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tactile_align.diagnostics.findings import Finding, judged
from tactile_align.diagnostics.patient import Patient
from tactile_align.training.validation import effective_rank, spread

NARROW = 1e-4  # isotropy; healthy features from scratch have 7e-4 and more


def features(patient: Patient) -> list[Finding]:
    """Mean, spread, effective rank and isotropy of both features."""
    model = patient.model.eval()
    if model.towers is None or model.hsa.weight == 0:
        return []
    with torch.no_grad():
        seen = model.see(patient.wide)
    found = []
    vectors = {f"h_tau of {name}": one.vector for name, one in seen.touches.items()}
    vectors |= {f"h_w of {name}": one.vector for name, one in seen.regions.items()}
    for name, h in vectors.items():
        rank, even = float(effective_rank(h)), isotropy(h)
        mean, std = float(h.mean()), float(h.std())
        found.append(
            judged(
                "feature rank",
                f"{name}: effective rank {rank:.1f} of {min(len(h) - 1, h.shape[1])}, mean {mean:.2g}, std {std:.2g}, "
                f"spread {float(spread(h)):.2g}",
                "> 5 good, < 2 bad",
                broken=not (rank >= 2 and math.isfinite(std)),
                warn=rank < 5 and h.shape[1] >= 16 and len(h) > 16,
                why="features in one line or one point cannot tell moments apart",
                advice="lower optimiser.lr_encoder, raise hsa.temperature, and check that images differ",
            )
        )
        found.append(
            judged(
                "isotropy",
                f"{name}: {even:.1e}",
                "> 1e-3 good, < 1e-4 bad",
                warn=even < NARROW,
                why="the features use a few directions only",
                advice="look at the same after some steps; if it stays, there are too few rivals or too little data",
            )
        )
    return found


def isotropy(features: Tensor) -> float:
    """Return the middle over the largest eigenvalue of the covariance of unit features (N, D)."""
    unit = F.normalize(features.double(), dim=-1)
    values = torch.linalg.svdvals(unit - unit.mean(dim=0)).square()
    usable = values[: min(len(features) - 1, features.shape[1])]
    return float(usable.median() / usable[0].clamp(min=1e-30))


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
