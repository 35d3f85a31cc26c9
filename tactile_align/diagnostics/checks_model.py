"""The doctor's checks of a model before any step: what learns and what is connected."""

import numpy as np
import torch

from tactile_align.diagnostics.checks_encoders import encoder_checks
from tactile_align.diagnostics.checks_outputs import outputs, padding, validation_computes_all
from tactile_align.diagnostics.checks_pairs import lonely_pairs
from tactile_align.diagnostics.findings import Finding, judged
from tactile_align.diagnostics.modules import LEARNS_LATER, gradients, parts_of, towers_of
from tactile_align.diagnostics.patient import Patient, total_of
from tactile_align.features.parameters import parameter_table
from tactile_align.training.optimiser import make_optimiser

VANISHING, EXPLODING = 1e-3, 1e3  # times the median part
Rows = tuple[tuple[str, ...], ...]


def model_checks(patient: Patient) -> tuple[list[Finding], dict[str, Rows]]:
    """Return all findings about the model, and the tables of its parts."""
    flow, norms = gradient_flow(patient)
    found = [
        *encoder_checks(patient),
        trainable(patient),
        flow,
        shared(patient),
        validation_computes_all(patient),
        padding(patient),
        *outputs(patient),
        *lonely_pairs(patient),
    ]
    return found, {
        "parameters and gradients by module": _parts_table(patient, norms),
        "parameters in all": tuple(tuple(line.split()) for line in parameter_table(patient.model).splitlines()),
    }


def trainable(patient: Patient) -> Finding:
    """Whether what should learn is trainable and in the optimiser."""
    model = patient.model
    held, parts = _held_by_optimiser(patient), parts_of(model)
    left_out = [n for ps in parts.values() for n, p in ps if p.requires_grad and id(p) not in held]
    frozen = []
    for name, tower in towers_of(model).items():
        tune = patient.config.features.vision.tune
        if name == "towers.touch" and patient.config.features.touch is not None:
            tune = patient.config.features.touch.tune
        idle = model.hsa.weight == 0 and not (model.reads_touches if name == "towers.touch" else model.reads_regions)
        idle = idle and len(towers_of(model)) == 2
        if tune != "frozen" and not idle and not any(p.requires_grad for p in tower.parameters()):
            frozen.append(f"{name} should learn (tune = '{tune}')")
    frozen += [n for n, ps in parts.items() if n.startswith("act") and not any(p.requires_grad for _, p in ps)]
    learns = sum(p.numel() for ps in parts.values() for _, p in ps if p.requires_grad)
    total = sum(p.numel() for ps in parts.values() for _, p in ps)
    wrong = [*frozen, *(f"{n} not in the optimiser" for n in left_out)]
    return judged(
        "trainable parameters",
        f"{learns:,} of {total:,} elements learn" + (f"; {', '.join(wrong[:3])}" if wrong else ""),
        "everything the config says, and all of it in the optimiser",
        broken=bool(wrong) or learns == 0,
        why="what is frozen or not in the optimiser stays at its random start for the whole run",
        advice="set features.vision.tune = 'frozen' if it is meant, or call requires_grad_(True)",
    )


def gradient_flow(patient: Patient) -> tuple[Finding, dict[str, float]]:
    """Gradient of every trainable part after one backward pass; also the norms by part."""
    grads = gradients(patient.model.eval(), total_of(patient.losses(patient.batch)))
    norms: dict[str, float] = {}
    rms: dict[str, float] = {}
    for part, parameters in parts_of(patient.model).items():
        own = [(n, grads[n]) for n, p in parameters if p.requires_grad and not n.startswith(LEARNS_LATER)]
        if not own:
            continue
        arrived = [g for _, g in own if g is not None]
        norms[part] = float(torch.stack([g.norm() for g in arrived]).norm()) if arrived else 0.0
        size = sum(g.numel() for g in arrived)
        rms[part] = norms[part] / size**0.5 if size else 0.0
    dead = [part for part, norm in norms.items() if norm == 0.0]
    wild = [part for part, norm in norms.items() if not np.isfinite(norm)]
    alive = [value for value in rms.values() if 0 < value < np.inf]
    middle = float(np.median(alive)) if alive else 0.0
    vanishing = [part for part, value in rms.items() if 0 < value < VANISHING * middle]
    exploding = [part for part, value in rms.items() if value > EXPLODING * middle]
    seen = [f"dead: {', '.join(dead[:4])}"] if dead else []
    seen += [f"not finite: {', '.join(wild[:4])}"] if wild else []
    seen += [f"vanishing: {', '.join(vanishing[:4])}"] if vanishing else []
    seen += [f"exploding: {', '.join(exploding[:4])}"] if exploding else []
    finding = judged(
        "gradient by module",
        "; ".join(seen) or f"all {len(norms)} parts alive, median {middle:.1e} an element",
        f"no part at 0, none below {VANISHING:g} or above {EXPLODING:g} times the median",
        broken=bool(dead or wild),
        warn=bool(vanishing or exploding),
        why="a part without gradient is disconnected from the loss and never learns",
        advice="look for detach(), no_grad() or an unused layer between that part and the loss; freeze what is unused",
    )
    return finding, norms


def shared(patient: Patient) -> Finding:
    """Whether the encoder that the alignment trains feeds the action."""
    model = patient.model
    if model.hsa.weight == 0 or model.towers is None:
        return judged("alignment reaches the action", "no alignment loss in this run", "-")
    if model.act is None:
        return judged("alignment reaches the action", "alignment alone is trained", "-")
    with torch.no_grad():
        base = model.eval().predict(patient.batch, model.see(patient.batch), with_actions=False).actions
        other = {
            n: 255 - v if n in {f"image/{k}" for k in _looked_at(patient)} else v for n, v in patient.batch.items()
        }
        change = float((model.predict(other, model.see(other), with_actions=False).actions - base).abs().max())
    return judged(
        "alignment reaches the action",
        f"inverting what the aligned encoders see moves the actions by {change:.1e}",
        "> 0",
        broken=not change > 0,
        why="an encoder that the policy does not read is trained for nothing: the original's was private and "
        "never saved",
        advice="set policy.region_tokens or policy.touch_tokens = true",
    )


def _held_by_optimiser(patient: Patient) -> set[int]:
    optimiser, _ = make_optimiser(patient.model, patient.config)
    return {id(p) for group in optimiser.param_groups for p in group["params"]}


def _looked_at(patient: Patient) -> list[str]:
    return [*patient.model.sensors, *(view.key for view in patient.model.views)]


def _parts_table(patient: Patient, norms: dict[str, float]) -> Rows:
    held = _held_by_optimiser(patient)
    rows: list[tuple[str, ...]] = [
        ("module", "tensors", "elements", "trainable", "frozen", "in the optimiser", "gradient")
    ]
    for part, parameters in parts_of(patient.model).items():
        learns = sum(p.numel() for _, p in parameters if p.requires_grad)
        total = sum(p.numel() for _, p in parameters)
        gradient = f"{norms[part]:.1e}" if part in norms else "-"
        taught = sum(p.numel() for _, p in parameters if id(p) in held)
        counts = (total, learns, total - learns, taught)
        rows.append((part, str(len(parameters)), *(f"{count:,}" for count in counts), gradient))
    return tuple(rows)
