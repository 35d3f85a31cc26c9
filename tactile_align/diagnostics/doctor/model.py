"""The doctor's checks of a model before any step: what learns and what is connected."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn

from tactile_align.checks import Check, Table
from tactile_align.diagnostics.doctor.limits import judged, stated
from tactile_align.diagnostics.doctor.pairs import lonely_pairs
from tactile_align.diagnostics.doctor.subject import Subject, total_of
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


def model_checks(subject: Subject) -> list[Check]:
    """Return all checks of the model."""
    return [
        encoder_weights(subject),
        *normalisation(subject),
        *passes(subject),
        *pairing(subject),
        trainable(subject),
        *gradient_flow(subject),
        *shared(subject),
        validation_computes_all(subject),
        padding(subject),
        *outputs(subject),
        *lonely_pairs(subject),
    ]


def encoder_weights(subject: Subject) -> Check:
    """Whether the encoders start from trained weights."""
    alignment = subject.model.alignment
    return stated(
        "encoder-weights",
        "info" if alignment is not None and alignment.towers.scratch else "pass",
        ", ".join(getattr(tower, "name", name) for name, tower in towers_of(subject.model).items()) or "none",
        "pretrained, or SCRATCH on purpose",
        why="random features take thousands of pairs to form",
        advice="with few episodes name a pretrained tag; from scratch use stem = 'conv' and a higher lr_encoder",
    )


def normalisation(subject: Subject) -> list[Check]:
    """Whether each encoder's first layer gets its pixels scaled and normalised once, by the encoder's own numbers."""
    checks, model = [], subject.model
    for name, tower in towers_of(model).items():
        with first_inputs(tower) as inputs, torch.no_grad():
            subject.losses(subject.batch)
        keys = list(model.sensors) if name == "towers.touch" else [view.key for view in model.views]
        if len(towers_of(model)) == 1:
            keys = [*model.sensors, *keys]
        if subject.config.region == "opening":
            keys = [key for key in keys if key in model.sensors]
        mean, std = _own_statistics(tower)
        pixels = torch.cat([subject.batch.images()[key].permute(0, 3, 1, 2) for key in keys]).float() / 255
        expected = (pixels - mean) / std
        came = torch.cat(inputs) if inputs else torch.zeros(0)
        same = came.shape == expected.shape
        check = judged(
            "normalisation",
            float((came.float() - expected).abs().max()) if same else math.nan,
            name,
            measured=f"mean {float(came.mean()):.2f}, spread {float(came.std()):.2f}; needed "
            f"{float(expected.mean()):.2f}, {float(expected.std()):.2f}"
            if len(came)
            else "nothing came",
            advice="hand over uint8 and let the encoder subtract its own mean; nothing else may normalise",
        )
        # Other images came too: nothing to compare, and nothing shown to be wrong.
        checks.append(check if same else replace(check, status="warn"))
    return checks


def _own_statistics(tower: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and std that the tower's weights were trained with, from open_clip's own record of them."""
    record = getattr(getattr(tower, "visual", None), "preprocess_cfg", None) or {}
    mean, std = record.get("mean"), record.get("std")
    if mean is None or std is None:
        return tower.get_buffer("mean"), tower.get_buffer("std")
    return torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)


def passes(subject: Subject) -> list[Check]:
    """How many passes of the encoders one step takes, and of how many images."""
    count, rows = 0, 0
    for tower in towers_of(subject.model).values():
        with first_inputs(tower) as inputs, torch.no_grad():
            subject.losses(subject.batch)
        count += len(inputs)
        rows += sum(len(x) for x in inputs)
    batch = len(subject.batch)
    needed = 2 + len(subject.model.views) * subject.config.hsa.looks_beside
    advice = "stack the images of a batch and run each encoder once"
    return [
        judged("encoder-passes", max(0, count - needed), measured=f"{count} a step, {needed} needed", advice=advice),
        judged(
            "images-per-pass",
            rows / count / batch if count else 1.0,
            measured=f"{rows / max(count, 1):.0f} of {batch}",
            advice=advice,
        ),
    ]


def pairing(subject: Subject) -> list[Check]:
    """Whether row i of the touches becomes row i of h_tau, and row i of the views row i of h_w."""
    model, checks = subject.model.eval(), []
    if model.alignment is None:
        return []
    with torch.no_grad():
        before = model.see(subject.batch)
        for view in model.views:
            for what, key in (("touch", view.sensor), ("region", view.key)):
                if what == "region" and subject.config.region == "opening":
                    continue
                row = len(subject.batch) // 2
                image = subject.batch.images()[key].clone()
                image[row] = 255 - image[row]
                after = model.see(subject.batch.with_images({key: image}))
                old = before.touches[view.sensor] if what == "touch" else before.regions[view.key]
                new = after.touches[view.sensor] if what == "touch" else after.regions[view.key]
                moved = (new.vector - old.vector).norm(dim=1)
                changed = torch.nonzero(moved > 1e-4 * old.vector.norm(dim=1).clamp(min=1e-9)).flatten().tolist()
                checks.append(
                    judged(
                        "rows-stay-pairs",
                        len({*changed} ^ {row}),
                        view.key,
                        what,
                        measured=f"changing row {row} changes {f'rows {changed[:4]}' if changed else 'no row'}",
                        advice="keep the batch axis in order from data to loss, and nothing detached or constant in "
                        "between",
                    )
                )
    return checks


def validation_computes_all(subject: Subject) -> Check:
    """Whether eval mode computes every part of the loss that training does."""
    model = subject.model
    with torch.no_grad():
        torch.manual_seed(0)
        training = set(model.train()(subject.batch)[1])
        checking = set(model.eval()(subject.batch)[1])
    missing = sorted(training - checking)
    return judged(
        "validation-losses",
        len(missing),
        measured=f"missing: {', '.join(missing)}" if missing else f"none of {len(training)}",
        advice="compute the same losses in eval mode",
    )


def padding(subject: Subject) -> Check:
    """Whether the action loss is divided by the steps it is made of."""
    share = float(subject.batch.is_pad.float().mean())
    reduction = subject.config.policy.loss_reduction
    return stated(
        "padded-steps",
        "warn" if subject.model.act is not None and reduction == "all" else "pass",
        f"over {reduction} steps; {share:.0%} of the action steps lie past the end of an episode",
        "over valid steps",
        why="dividing by padded steps too makes the loss, and the ends of episodes, count too little",
        advice="set policy.loss_reduction = 'valid'; 'all' is for comparing with the original",
    )


def outputs(subject: Subject) -> list[Check]:
    """Scale, saturation and variety of the predicted actions."""
    model = subject.model
    if model.act is None:
        return []
    with squashed(model) as saturated, torch.no_grad():
        actions = model.eval().predict(subject.wide, model.see(subject.wide)).actions
    target = subject.wide.action[~subject.wide.is_pad]
    extreme = float((actions.abs() > 0.99 * actions.abs().amax()).float().mean())
    return [
        judged(
            "output-scale",
            float(actions.std()) / max(float(target.std()), 1e-9),
            measured=f"{float(actions.std()):.2g}, targets {float(target.std()):.2g}",
            advice="set policy.init_gain = 0.5 or lower, and check that targets are normalised",
        ),
        judged(
            "saturated-activations",
            max([*saturated.values(), extreme]),
            advice="take the squashing layer off the action head; L1 needs no bounds",
        ),
        judged(
            "stuck-predictions",
            float(actions.std(dim=0).mean()),
            advice="check that state, touch and region tokens reach ACT, and the learning rate of a trained run",
        ),
    ]


def trainable(subject: Subject) -> Check:
    """Whether what should learn is trainable and in the optimiser."""
    model = subject.model
    held, parts = _held_by_optimiser(subject), parts_of(model)
    left_out = [n for ps in parts.values() for n, p in ps if p.requires_grad and id(p) not in held]
    frozen = []
    for name, tower in towers_of(model).items():
        tune = subject.config.features.vision.tune
        if name == "towers.touch" and subject.config.features.touch is not None:
            tune = subject.config.features.touch.tune
        idle = not model.aligns and not (model.reads_touches if name == "towers.touch" else model.reads_regions)
        idle = idle and len(towers_of(model)) == 2
        if tune != "frozen" and not idle and not any(p.requires_grad for p in tower.parameters()):
            frozen.append(f"{name} should learn (tune = '{tune}')")
    frozen += [n for n, ps in parts.items() if n.startswith("act") and not any(p.requires_grad for _, p in ps)]
    learns = sum(p.numel() for ps in parts.values() for _, p in ps if p.requires_grad)
    total = sum(p.numel() for ps in parts.values() for _, p in ps)
    wrong = [*frozen, *(f"{n} not in the optimiser" for n in left_out), *([] if learns else ["nothing learns"])]
    return judged(
        "trainable-parameters",
        len(wrong),
        measured=", ".join(wrong[:3]) or f"{learns:,} of {total:,} elements learn, all of them in the optimiser",
        advice="set features.vision.tune = 'frozen' if it is meant, or call requires_grad_(True)",
    )


def gradient_flow(subject: Subject) -> list[Check]:
    """Gradient of every trainable part after one backward pass, beside that of the median part."""
    model, rms = subject.model.eval(), dict[str, float]()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = total_of(subject.losses(subject.batch))
    gradients = (
        torch.autograd.grad(loss, [*named.values()], allow_unused=True) if loss.requires_grad else [None] * len(named)
    )
    by_name = dict(zip(named, gradients, strict=True))
    for part, parameters in parts_of(model).items():
        own = [by_name[n] for n, p in parameters if p.requires_grad and not n.startswith(LEARNS_LATER)]
        arrived = [g.flatten() for g in own if g is not None]
        if own:
            rms[part] = float(torch.cat(arrived).norm()) / sum(map(len, arrived)) ** 0.5 if arrived else 0.0
    middle = median([value for value in rms.values() if 0 < value < math.inf] or [0.0])
    return [
        judged(
            "gradient",
            _decades(value, middle),
            part,
            measured=f"{value:.1e} an element, {_decades(value, middle):.1f} decades off" if value else "none arrives",
            advice="look for detach(), no_grad() or an unused layer between that part and the loss; freeze what is "
            "unused",
        )
        for part, value in rms.items()
    ]


def _decades(value: float, middle: float) -> float:
    return abs(math.log10(value / middle)) if 0 < value < math.inf else math.inf


def shared(subject: Subject) -> list[Check]:
    """Whether the encoder that the alignment trains feeds the action; nothing where one of them is not trained."""
    model = subject.model
    if not model.aligns or model.act is None:
        return []
    with torch.no_grad():
        base = model.eval().predict(subject.batch, model.see(subject.batch)).actions
        keys = (*model.sensors, *(view.key for view in model.views))
        other = subject.batch.with_images({key: 255 - subject.batch.images()[key] for key in keys})
        change = float((model.predict(other, model.see(other)).actions - base).abs().max())
    advice = "set policy.region_tokens or policy.touch_tokens = true"
    return [judged("alignment-reaches-action", change, advice=advice)]


def parameters(subject: Subject) -> Table:
    """Return how many parameters each part has, how many of them learn, and how many the optimiser holds."""
    held = _held_by_optimiser(subject)
    counts: dict[str, tuple[int, ...]] = {}
    for part, named in parts_of(subject.model).items():
        total = sum(p.numel() for _, p in named)
        learns = sum(p.numel() for _, p in named if p.requires_grad)
        taught = sum(p.numel() for _, p in named if id(p) in held)
        counts[part] = (len(named), total, learns, total - learns, taught)
    counts["all"] = tuple(map(sum, zip(*counts.values(), strict=True)))
    head = ("module", "tensors", "elements", "trainable", "frozen", "in the optimiser")
    return Table("parameters by module", head, tuple((part, *numbers) for part, numbers in counts.items()))


def _held_by_optimiser(subject: Subject) -> set[int]:
    optimiser, _ = make_optimiser(subject.model, subject.config)
    return {id(p) for group in optimiser.param_groups for p in group["params"]}
