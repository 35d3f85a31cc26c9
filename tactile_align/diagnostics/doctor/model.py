"""The doctor's checks of a model before any step: what learns and what is connected."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from tactile_align.diagnostics.doctor.pairs import lonely_pairs
from tactile_align.diagnostics.doctor.subject import Finding, Patient, judged, total_of
from tactile_align.features.parameters import parameter_table
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.training.optimiser import make_optimiser

LEARNS_LATER = ("act.decoder.layers.0.self_attn", "act.decoder.layers.0.norm1")
"""ACT's decoder attends to zeros at first, so its own attention gets gradient only after some steps."""


def module_of(name: str) -> str:
    """Return the part of the model a parameter belongs to: whole towers' blocks, whole layers of ACT."""
    parts = name.split(".")[:-1] or [name]
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: i + 1])
    return ".".join(parts[:3])


def parts_of(model: AlignedPolicy) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Return the parameters of each part, in the model's order; those of the following copy are left out."""
    found: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, p in model.named_parameters():
        short = name.removeprefix("alignment.")
        if not short.startswith("memory."):
            found.setdefault(module_of(short), []).append((name, p))
    return found


def towers_of(model: AlignedPolicy) -> dict[str, nn.Module]:
    """Return the model's different encoders by name."""
    if model.alignment is None:
        return {}
    towers = model.alignment.towers
    if towers.vision is towers.touch:
        return {"towers.vision": towers.vision}
    return {"towers.vision": towers.vision, "towers.touch": towers.touch}


@contextmanager
def first_inputs(tower: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what reaches the first layer of a tower inside the block, one entry a pass."""
    seen: list[Tensor] = []
    first = next(m for m in tower.modules() if isinstance(m, nn.Conv2d | nn.Linear))

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].detach())

    handle = first.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def squashed(model: nn.Module) -> Iterator[dict[str, float]]:
    """Collect the share of saturated outputs of every tanh and sigmoid inside the block, by module name."""
    seen: dict[str, float] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Tanh | nn.Sigmoid | nn.Hardtanh):
            low = 0.0 if isinstance(module, nn.Sigmoid) else -1.0

            def keep(m: nn.Module, args: object, out: Tensor, name: str = name, low: float = low) -> None:
                edge = 0.01 * (1 - low)
                seen[name] = float(((out > 1 - edge) | (out < low + edge)).float().mean())

            handles.append(module.register_forward_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def gradients(model: AlignedPolicy, loss: Tensor | None, retain: bool = False) -> dict[str, Tensor | None]:
    """Return the gradient of a loss for each trainable parameter by name; None where none arrives."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if loss is None or not loss.requires_grad:
        return {name: None for name, _ in named}
    found = torch.autograd.grad(loss, [p for _, p in named], retain_graph=retain, allow_unused=True)
    return {name: grad for (name, _), grad in zip(named, found, strict=True)}


def encoder_checks(patient: Patient) -> list[Finding]:
    """Return all findings about the encoders."""
    return [encoder_weights(patient), *normalisation(patient), passes(patient), *pairing(patient)]


def encoder_weights(patient: Patient) -> Finding:
    """Whether the encoders start from trained weights."""
    alignment = patient.model.alignment
    scratch = alignment is not None and alignment.towers.scratch
    names = ", ".join(getattr(tower, "name", name) for name, tower in towers_of(patient.model).items()) or "none"
    finding = judged("encoder weights", names, "pretrained, or SCRATCH on purpose")
    if not scratch:
        return finding
    advice = "with few episodes name a pretrained tag; from scratch use stem = 'conv' and a higher lr_encoder"
    return Finding(
        finding.check, "note", names, finding.threshold, "random features take thousands of pairs to form", advice
    )


def normalisation(patient: Patient) -> list[Finding]:
    """Whether each encoder's first layer gets its pixels scaled and normalised once, by the encoder's own numbers."""
    found, model = [], patient.model
    for name, tower in towers_of(model).items():
        with first_inputs(tower) as seen, torch.no_grad():
            patient.losses(patient.batch)
        keys = list(model.sensors) if name == "towers.touch" else []
        keys = keys or [view.key for view in model.views]
        if len(towers_of(model)) == 1:
            keys = [*model.sensors, *keys]
        if patient.config.region == "opening":
            keys = [key for key in keys if key in model.sensors]
        mean, std = _own_statistics(tower)
        pixels = torch.cat([patient.batch.images()[key].permute(0, 3, 1, 2) for key in keys]).float() / 255
        expected = (pixels - mean) / std
        came = torch.cat(seen) if seen else torch.zeros(0)
        same = came.shape == expected.shape and bool(torch.allclose(came.float(), expected, atol=2e-2))
        spread = f"mean {float(came.mean()):.2f}, spread {float(came.std()):.2f}" if len(came) else "nothing"
        wanted = f"mean {float(expected.mean()):.2f}, spread {float(expected.std()):.2f}"
        found.append(
            judged(
                "normalisation",
                f"{name}: {spread} at the first layer",
                wanted,
                broken=not same and came.shape == expected.shape,
                warn=not same,
                why="weights expect pixels scaled once by their own mean and std; twice, or by ImageNet's, they "
                "see noise",
                advice="hand over uint8 and let the encoder subtract its own mean; nothing else may normalise",
            )
        )
    return found


def _own_statistics(tower: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and std that the tower's weights were trained with, from open_clip's own record of them."""
    record = getattr(getattr(tower, "visual", None), "preprocess_cfg", None) or {}
    mean, std = record.get("mean"), record.get("std")
    if mean is None or std is None:
        return tower.get_buffer("mean"), tower.get_buffer("std")
    return torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)


def passes(patient: Patient) -> Finding:
    """How many passes of the encoders one step takes."""
    count, rows = 0, 0
    for tower in towers_of(patient.model).values():
        with first_inputs(tower) as seen, torch.no_grad():
            patient.losses(patient.batch)
        count += len(seen)
        rows += sum(len(x) for x in seen)
    batch = len(patient.batch)
    allowed = 2 + len(patient.model.views) * patient.config.hsa.looks_beside
    return judged(
        "encoder passes",
        f"{count} a step, {rows / max(count, 1):.0f} images each",
        f"<= {allowed}, whole batches of {batch}",
        broken=count > allowed and rows < count * batch,
        warn=count > allowed,
        why="one image at a time wastes nearly all of the machine: 48 small passes a step made the original slow",
        advice="stack the images of a batch and run each encoder once",
    )


def pairing(patient: Patient) -> list[Finding]:
    """Whether row i of the touches becomes row i of h_tau, and row i of the views row i of h_w."""
    model, found = patient.model.eval(), []
    if model.alignment is None:
        return []
    with torch.no_grad():
        before = model.see(patient.batch)
        for view in model.views:
            for what, key in (("touch", view.sensor), ("region", view.key)):
                if what == "region" and patient.config.region == "opening":
                    continue
                row = len(patient.batch) // 2
                image = patient.batch.images()[key].clone()
                image[row] = 255 - image[row]
                after = model.see(patient.batch.with_images({key: image}))
                old = before.touches[view.sensor] if what == "touch" else before.regions[view.key]
                new = after.touches[view.sensor] if what == "touch" else after.regions[view.key]
                moved = (new.vector - old.vector).norm(dim=1)
                changed = torch.nonzero(moved > 1e-4 * old.vector.norm(dim=1).clamp(min=1e-9)).flatten().tolist()
                found.append(
                    judged(
                        "rows stay pairs",
                        f"{view.key}: changing {what} {row} changes feature {changed[:4] if changed else 'of no row'}",
                        f"that of row {row} alone",
                        broken=changed != [row],
                        why="a feature that belongs to another moment makes wrong pairs; one that ignores its "
                        "image learns nothing",
                        advice="keep the batch axis in order from data to loss, and nothing detached or constant "
                        "in between",
                    )
                )
    return found


def validation_computes_all(patient: Patient) -> Finding:
    """Whether eval mode computes every part of the loss that training does."""
    model = patient.model
    with torch.no_grad():
        torch.manual_seed(0)
        training = set(model.train()(patient.batch)[1])
        checking = set(model.eval()(patient.batch)[1])
    missing = sorted(training - checking)
    return judged(
        "validation computes all",
        f"missing: {', '.join(missing)}" if missing else f"all {len(training)} parts",
        "everything that training computes",
        broken=bool(missing),
        why="a loss that validation leaves out can go wrong unseen",
        advice="compute the same losses in eval mode",
    )


def padding(patient: Patient) -> Finding:
    """Whether the action loss is divided by the steps it is made of."""
    share = float(patient.batch.is_pad.float().mean())
    reduction = patient.config.policy.loss_reduction
    return judged(
        "padded steps",
        f"{share:.0%} of the action steps lie past the end of an episode; loss over {reduction} steps",
        "over valid steps",
        warn=patient.model.act is not None and reduction == "all",
        why="dividing by padded steps too makes the loss, and the ends of episodes, count too little",
        advice="set policy.loss_reduction = 'valid'; 'all' is for comparing with the original",
    )


def outputs(patient: Patient) -> list[Finding]:
    """Scale, saturation and variety of the predicted actions."""
    model = patient.model
    if model.act is None:
        return []
    with squashed(model) as saturated, torch.no_grad():
        actions = model.eval().predict(patient.wide, model.see(patient.wide)).actions
    target = patient.wide.action[~patient.wide.is_pad]
    ratio = float(actions.std()) / max(float(target.std()), 1e-9)
    extreme = float((actions.abs() > 0.99 * actions.abs().amax()).float().mean())
    worst = max([*saturated.values(), extreme])
    varies = float(actions.std(dim=0).mean())
    return [
        judged(
            "output scale",
            f"predictions spread {float(actions.std()):.2g}, targets {float(target.std()):.2g}: {ratio:.2g} times",
            "< 5 times, broken above 10",
            broken=not ratio <= 10,
            warn=ratio > 5,
            why=f"an error of {ratio:.0f} spreads swamps every other loss: a spread of 37 explains a squared loss "
            "of 1400",
            advice="set policy.init_gain = 0.5 or lower, and check that targets are normalised",
        ),
        judged(
            "saturated activations",
            f"{worst:.0%} of the outputs stand at their limit",
            "< 50 %",
            broken=worst > 0.5,
            why="a saturated tanh or sigmoid passes no gradient, and the predictions stick to its ends",
            advice="take the squashing layer off the action head; L1 needs no bounds",
        ),
        judged(
            "stuck predictions",
            f"predictions change by {varies:.1e} from moment to moment",
            "> 1e-4",
            broken=not varies > 1e-4,
            why="the policy gives one answer whatever it sees",
            advice="check that state, touch and region tokens reach ACT, and the learning rate of a trained run",
        ),
    ]


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
        "parameters in all": tuple(
            tuple(line.split()) for line in parameter_table(patient.model, depth=3).splitlines()
        ),
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
        idle = not model.aligns and not (model.reads_touches if name == "towers.touch" else model.reads_regions)
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
    if not model.aligns:
        return judged("alignment reaches the action", "no alignment loss in this run", "-")
    if model.act is None:
        return judged("alignment reaches the action", "alignment alone is trained", "-")
    with torch.no_grad():
        base = model.eval().predict(patient.batch, model.see(patient.batch)).actions
        images = patient.batch.images()
        looked_at = (*model.sensors, *(view.key for view in model.views))
        other = patient.batch.with_images({key: 255 - images[key] for key in looked_at})
        change = float((model.predict(other, model.see(other)).actions - base).abs().max())
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
