"""Doctor checks of a model before any training step: encoder inputs, gradients and outputs."""

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn

from tactile_align.checks import Check, Table
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor import pointer
from tactile_align.diagnostics.doctor.data import lower_gap
from tactile_align.diagnostics.doctor.limits import judged, stated
from tactile_align.diagnostics.doctor.subject import Subject, total_of
from tactile_align.features.foreign import SparshTower
from tactile_align.moments.batch import MomentBatch
from tactile_align.policies.act import ACT, ObservationEncoder
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.heads.denoising import Denoising
from tactile_align.policies.heads.head import Observed
from tactile_align.training.optimiser import make_optimiser
from tactile_align.training.parameters import module_of, parameter_table, parts_of

OF_BANK = ("bank_share/", "negatives_from/bank/")
LEARNS_LATER = ("act.decoder.layers.0.self_attn", "act.decoder.layers.0.norm1")
"""Parts of ACT without a gradient in the first steps, in which the decoder's input and self-attention are zero."""


POSITION = "act.encoder_1d_feature_pos_embed"


def towers_of(model: AlignedPolicy) -> dict[str, nn.Module]:
    """Return the encoders (towers) of the model by name; an encoder of both touch and vision appears once."""
    if model.alignment is None:
        return {}
    towers = model.alignment.towers
    if towers.vision is towers.touch:
        return {"towers.vision": towers.vision}
    return {"towers.vision": towers.vision, "towers.touch": towers.touch}


def model_checks(subject: Subject) -> Iterator[Check]:
    """Yield all checks of the model, in the order of the report."""
    for checks in (weights, pushes_apart, inputs, pairing, trainable, new_part_rates, gradients):
        yield from checks(subject)
    for checks in (shared, validation, padding, outputs, denoiser, pointer.rate_and_outputs):
        yield from checks(subject)
    for checks in (large_loss, clipping, lonely_pairs):
        yield from checks(subject)


def weights(subject: Subject) -> Iterator[Check]:
    """Yield the check that the encoders start from pretrained weights."""
    alignment = subject.model.alignment
    yield stated(
        "encoder-weights",
        "info" if alignment is not None and alignment.towers.scratch else "pass",
        ", ".join(getattr(tower, "name", name) for name, tower in towers_of(subject.model).items()) or "none",
        "pretrained, or SCRATCH on purpose",
        why="an encoder with random initial weights needs thousands of pairs to learn useful features",
        advice="with few episodes, set pretrained to a tag. From scratch, use stem = 'conv' and lr_tower = 1e-3",
    )


def pushes_apart(subject: Subject) -> Iterator[Check]:
    """Yield the check that the alignment loss pushes the features of different moments apart."""
    if subject.model.aligns:
        kind = subject.config.hsa.kind
        yield stated(
            "pushes-apart",
            "warn" if kind == "mse" else "pass",
            f"hsa.kind = '{kind}'",
            "negatives",
            why="without negatives, the loss is smallest if all features are equal, so they collapse",
            advice="set hsa.kind = 'hsa'; mse is only for debugging",
        )


def inputs(subject: Subject) -> Iterator[Check]:
    """Yield checks that pixels are normalised once, and checks of the number of forward passes and images per pass.

    Pixels must be normalised with the mean and standard deviation that the encoder was trained with.
    """
    model, batch = subject.model, len(subject.batch)
    towers = towers_of(model)
    arrived: dict[str, list[Tensor]] = {name: [] for name in towers}
    with ExitStack() as hooks, torch.no_grad():
        for name, tower in towers.items():
            visual = getattr(tower, "visual", None)
            layers = (m for m in tower.modules() if isinstance(m, nn.Conv2d | nn.Linear))
            first = visual.upright if isinstance(visual, SparshTower) else next(layers)  # before it limits and turns

            def keep(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                arrived[name].append(args[0].detach())

            hooks.callback(first.register_forward_pre_hook(keep).remove)
        subject.losses(subject.batch)
    for name, tower in towers.items():
        regions = [] if subject.config.region == "opening" else [view.key for view in model.views]
        keys = list(model.sensors) if name == "towers.touch" else [*regions, *model.frame_keys.values()]
        keys = list(dict.fromkeys([*model.sensors, *keys] if len(towers) == 1 else keys))
        mean, std = _own_statistics(tower)
        images = [subject.batch.images()[key].permute(0, 3, 1, 2) for key in keys]
        pixels = torch.cat([_one_by_one(part) for part in images]).float() / 255
        expected = (pixels - mean) / std
        actual = torch.cat([_one_by_one(part) for part in arrived[name]]).float() if arrived[name] else torch.zeros(0)
        same = actual.shape == expected.shape
        measured = f"mean {actual.mean():.2f}, std {actual.std():.2f}" if len(actual) else "no input"
        needed = f"expected {expected.mean():.2f}, {expected.std():.2f}"
        error = float((actual - expected).abs().max()) if same else math.nan
        check = judged("normalisation", error, name, measured=f"{measured}; {needed}")
        # With additional images in the passes, the input cannot be compared, but nothing is known to be wrong.
        yield check if same else replace(check, status="warn")
    passes = [len(images) for entries in arrived.values() for images in entries]
    allowed = 2  # one of the touches, and one of the views and whole frames
    yield judged("encoder-passes", max(0, len(passes) - allowed), measured=f"{len(passes)} a step, {allowed} needed")
    rows = sum(passes) / max(1, len(passes))
    yield judged("images-per-pass", rows / batch if passes else 1.0, measured=f"{rows:.0f} of {batch}")


def _one_by_one(images: Tensor) -> Tensor:
    """Return the RGB images (B K, 3, H, W) of B stacks of K images (B, 3 K, H, W)."""
    return images.reshape(-1, 3, *images.shape[2:])


def _own_statistics(tower: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pixel mean and std that an encoder was trained with, from open_clip's record of them if it exists."""
    record = getattr(getattr(tower, "visual", None), "preprocess_cfg", None) or {}
    mean, std = record.get("mean"), record.get("std")
    if mean is None or std is None:
        return tower.get_buffer("mean"), tower.get_buffer("std")
    return torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)


@torch.no_grad()
def pairing(subject: Subject) -> Iterator[Check]:
    """Yield the checks that the model keeps the order of a batch: row i of h_tau and h_w belongs to moment i.

    h_tau is the feature of a touch image and h_w the feature of an image region.
    """
    model = subject.model.eval()
    if model.alignment is None:
        return
    before = model.see(subject.few)
    for view in model.views:
        for what, key in (("touch", view.sensor), ("region", view.key)):
            if what == "region" and subject.config.region == "opening":
                continue
            row = len(subject.few) // 2
            image = subject.few.images()[key].clone()
            image[row] = 255 - image[row]
            after = model.see(subject.few.with_images({key: image}))
            old = before.touches[view.sensor] if what == "touch" else before.regions[view.key]
            new = after.touches[view.sensor] if what == "touch" else after.regions[view.key]
            moved = (new.vector - old.vector).norm(dim=1)
            changed = torch.nonzero(moved > 1e-4 * old.vector.norm(dim=1).clamp(min=1e-9)).flatten().tolist()
            measured = f"changing row {row} changes {f'rows {changed[:4]}' if changed else 'no row'}"
            yield judged("rows-stay-pairs", len({*changed} ^ {row}), view.key, what, measured=measured)


def validation(subject: Subject) -> Iterator[Check]:
    """Yield the check that eval mode computes the same losses as training mode, and does not use the memory bank."""
    with torch.no_grad():
        torch.manual_seed(0)
        training = {name for name in subject.model.train()(subject.few)[1] if not name.startswith(OF_BANK)}
        missing = sorted(training - set(subject.model.eval()(subject.few)[1]))
    measured = f"missing: {', '.join(missing)}" if missing else f"none of {len(training)}"
    yield judged("validation-losses", len(missing), measured=measured)


def padding(subject: Subject) -> Iterator[Check]:
    """Yield the check that the action loss is divided by the number of valid action steps, without padding."""
    share = float(subject.batch.is_pad.float().mean())
    reduction = subject.config.policy.loss_reduction
    yield stated(
        "padded-steps",
        "warn" if subject.model.act is not None and reduction == "all" else "pass",
        f"over {reduction} steps; {share:.0%} of the action steps lie past the end of an episode",
        "over valid steps",
        why="dividing by padded steps too makes the loss too small, above all at the ends of episodes",
        advice="set policy.loss_reduction = 'valid'; 'all' is only for comparisons with the original ACT",
    )


def outputs(subject: Subject) -> Iterator[Check]:
    """Yield checks of the scale, the saturation and the variation of the actions that ACT predicts."""
    model = subject.model
    if not isinstance(model.act, ACT):
        return
    saturated: dict[nn.Module, float] = {}

    def keep(module: nn.Module, _: object, out: Tensor) -> None:
        low = 0.0 if isinstance(module, nn.Sigmoid) else -1.0
        edge = 0.01 * (1 - low)
        saturated[module] = float(((out > 1 - edge) | (out < low + edge)).float().mean())

    with ExitStack() as hooks, torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Tanh | nn.Sigmoid | nn.Hardtanh):
                hooks.callback(module.register_forward_hook(keep).remove)
        actions = model.eval().predict(subject.wide, model.see(subject.wide))
    target = float(subject.wide.action[~subject.wide.is_pad].std())
    scale, largest = float(actions.std()), actions.abs().amax()
    extreme = float((actions.abs() > 0.99 * largest).float().mean())
    yield judged("output-scale", scale / max(target, 1e-9), measured=f"{scale:.2g}, targets {target:.2g}")
    yield judged("saturated-activations", max([*saturated.values(), extreme]))
    yield judged("stuck-predictions", float(actions.std(dim=0).mean()))


@torch.no_grad()
def denoiser(subject: Subject) -> Iterator[Check]:
    """Yield checks of a denoiser before the first step: its outputs, its loss against chance, and its learning rate.

    The loss of a trained denoiser may lie below chance.
    """
    model = subject.model.eval()
    if not isinstance(model.act, Denoising):
        return
    outputs: list[Tensor] = []
    hook = model.act.denoiser.register_forward_hook(lambda module, args, out: outputs.append(out))
    observed = model.observed(subject.batch, model.see(subject.batch, alignment=False))
    generator, sums = torch.Generator().manual_seed(0), torch.zeros(2)
    with hook:
        for _ in range(NOISES):
            batch = model.act.random(len(subject.batch), generator).into(subject.batch)
            log = model.act.losses(observed, batch)
            sums += torch.stack((log["denoise"], log["denoise_chance"]))
    yield judged("output-std", float(outputs[0].std()))
    loss, chance = (float(total) / NOISES for total in sums)
    ratio = loss / chance
    measured = f"{loss:.3g}, chance {chance:.3g}, ratio {ratio:.2f}"
    trained = bool(model.act.denoiser.output.weight.any())  # or wrongly initialised, which raises the loss
    yield judged("initial-loss", max(0.0, 0.0 if trained else 0.95 - ratio, ratio - 1.10), measured=measured)
    yield denoiser_rate(subject.config)


def denoiser_rate(config: TrainConfig) -> Check:
    """Return the check of the learning rate of a denoiser, relative to its width."""
    rate = config.optimiser.lr * config.policy.d_model
    return judged("denoiser-rate", rate, measured=f"{config.optimiser.lr:.2g} x {config.policy.d_model} = {rate:.2g}")


NOISES = 8
"""Batches of noise over which a denoiser's loss before the first step is averaged."""
LARGE = 10_000.0
"""Factor on the targets with which a large action loss is checked."""


def large_loss(subject: Subject) -> Iterator[Check]:
    """Yield the check that the gradient of a large action loss is that of its definition: nothing scales or clips it.

    The targets are multiplied by LARGE. The definition is evaluated here, from the outputs of the network.
    """
    model = subject.model.eval()
    if model.act is None:
        return
    batch = replace(subject.few, action=LARGE * subject.few.action)
    if isinstance(model.act, Denoising) and batch.noise is not None:
        batch = replace(batch, noise=LARGE * batch.noise)
    returned = subject.losses(batch).action
    expected = _defined(model.act, model.observed(batch, model.see(batch, alignment=False)), batch)
    weights = [p for p in model.act.parameters() if p.requires_grad]
    if returned is None or not weights:
        return
    got, wanted = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, materialize_grads=True)])
        if loss.requires_grad
        else torch.zeros(1)
        for loss in (returned, expected)
    )
    error = float((got - wanted).norm() / wanted.norm()) if got.shape == wanted.shape else 1.0
    yield judged("loss-as-defined", error, measured=f"{error:.2g} at a loss of {float(expected.detach()):.3g}")


def _defined(act: ObservationEncoder, observed: Observed, batch: MomentBatch) -> Tensor:
    """Return the action loss of a batch by its definition, from the outputs of the network."""
    real = ~batch.is_pad
    if isinstance(act, Denoising):
        return act.errors(observed, batch).mean(1)[real].mean()
    state, images, extra, pad = observed
    out = act(state, images, extra, batch.action, batch.is_pad, extra_is_pad=pad, noise=batch.noise)
    errors = (out.actions - batch.action).abs()
    l1 = torch.where(real[..., None], errors, 0).mean() if act.config.loss_reduction == "all" else errors[real].mean()
    if out.mu is None:
        return l1
    kl = (out.mu.square() + out.logvar.exp() - out.logvar - 1).sum(1).mean() / 2
    return l1 + act.config.kl_weight * kl


def clipping(subject: Subject) -> Iterator[Check]:
    """Yield the check that gradients are clipped."""
    yield judged("gradient-clip", subject.config.optimiser.clip_norm)


def opened(model: AlignedPolicy) -> AlignedPolicy:
    """Return the model, or a copy of it with a denoiser of larger weights if the denoiser's output layer is still 0.

    Through an output layer of 0, no gradient comes back and no observation reaches the actions. The other weights start
    small, so the gradients behind them would seem to vanish. The copy has Xavier's weights, as the encoder has.
    """
    if not isinstance(model.act, Denoising) or bool(model.act.denoiser.output.weight.any()):
        return model
    other = copy.deepcopy(model)
    assert isinstance(other.act, Denoising)
    for p in other.act.denoiser.parameters():
        if p.ndim > 1:
            nn.init.xavier_uniform_(p)
    return other


def trainable(subject: Subject) -> Iterator[Check]:
    """Yield the check that every part that should learn is trainable and in the optimiser."""
    model = subject.model
    held, parts = _held_by_optimiser(subject), parts_of(model)
    left_out = [n for ps in parts.values() for n, p in ps if p.requires_grad and id(p) not in held]
    frozen = []
    points = model.pointer is not None
    touched = model.reads_touches or (model.pointer is not None and model.pointer.options.touch)
    read = {"towers.touch": touched, "towers.vision": model.reads_vision or points}
    for name, tower in towers_of(model).items():
        tune = subject.config.features.vision.tune
        if name == "towers.touch" and subject.config.features.touch is not None:
            tune = subject.config.features.touch.tune
        idle = not model.aligns and not read[name] and len(towers_of(model)) == 2
        if tune != "frozen" and not idle and not any(p.requires_grad for p in tower.parameters()):
            frozen.append(f"{name} is frozen although tune = '{tune}'")
    frozen += [n for n, ps in parts.items() if n.startswith("act") and not any(p.requires_grad for _, p in ps)]
    learns = sum(p.numel() for ps in parts.values() for _, p in ps if p.requires_grad)
    total = sum(p.numel() for ps in parts.values() for _, p in ps)
    wrong = [*frozen, *(f"{n} not in the optimiser" for n in left_out), *([] if learns else ["no trainable parameter"])]
    measured = ", ".join(wrong[:3]) or f"{learns:,} of {total:,} elements are trainable, all of them in the optimiser"
    yield judged("trainable-parameters", len(wrong), measured=measured)


def new_part_rates(subject: Subject) -> Iterator[Check]:
    """Yield checks of the learning rate of each part with random initial weights; nothing if the config sets `init`."""
    config, model = subject.config, subject.model
    if config.init is not None:
        return
    optimiser, _ = make_optimiser(model, config)
    groups = {id(p): (group["name"], group["initial_lr"]) for group in optimiser.param_groups for p in group["params"]}
    loaded = tuple(f"alignment.{name}." for name, tower in towers_of(model).items() if not tower.scratch)
    parts: dict[str, dict[str, float]] = {}
    for name, p in model.named_parameters():
        group, rate = groups.get(id(p), ("", 0.0))
        pretrained = group == "towers" and name.startswith(loaded)
        pretrained |= group == "backbone" and config.policy.vision_weights != "scratch"
        if group and not pretrained:
            module = ".".join(module_of(name.removeprefix("alignment.")).split(".")[: 1 if group == "policy" else 2])
            rates = parts.setdefault(group, {})
            rates[module] = min(rate, rates.get(module, rate))
    for group, rates in parts.items():
        rate = min(rates.values())
        measured = f"{rate:.1e}: {', '.join(rates)}"
        kind, on = ("act-rate", ()) if group == "policy" else ("new-part-rate", (group,))
        yield judged(kind, rate, *on, measured=measured)


def gradients(subject: Subject) -> Iterator[Check]:
    """Yield checks of the gradient of every trainable part after one backward pass, relative to the median of all."""
    model, rms = opened(subject.model).eval(), dict[str, float]()
    model.zero_grad(set_to_none=True)
    loss = total_of(subject.losses(subject.few, model))
    if loss.requires_grad:
        loss.backward()
    # With one token in the memory, attention has nothing to choose, so the position of the token has no effect.
    shape = None if model.act is None else model.act.config
    alone = isinstance(model.act, Denoising) and shape is not None and not shape.cameras and not shape.extra_tokens
    without = (*LEARNS_LATER, *((POSITION,) if alone else ()))
    for part, named in parts_of(model).items():
        own = [p for name, p in named if p.requires_grad and not name.startswith(without)]
        arrived = [p.grad.flatten() for p in own if p.grad is not None]
        if own:
            rms[part] = float(torch.cat(arrived).norm()) / sum(map(len, arrived)) ** 0.5 if arrived else 0.0
    model.zero_grad(set_to_none=True)
    yield from relative_gradients(rms)


def relative_gradients(rms: dict[str, float]) -> Iterator[Check]:
    """Yield checks of gradients by part, rms per element, relative to the median of those that are not 0."""
    middle = median([value for value in rms.values() if 0 < value < math.inf] or [0.0])
    for part, value in rms.items():
        decades = abs(math.log10(value / middle)) if 0 < value < math.inf else math.inf
        measured = f"{value:.1e} per element (rms), {decades:.1f} decades off" if value else "no gradient"
        yield judged("gradient", decades, part, measured=measured)


def shared(subject: Subject) -> Iterator[Check]:
    """Yield the check that the actions depend on the encoders that the alignment trains.

    Yields nothing if the run trains only one of policy and alignment.
    """
    model = subject.model
    if not model.aligns or model.act is None:
        return
    model = opened(model)
    with torch.no_grad():
        base = model.eval().predict(subject.few, model.see(subject.few))
        images = subject.few.images()
        keys = {*model.sensors, *(view.key for view in model.views), *model.frame_keys.values()}
        other = subject.few.with_images({key: 255 - images[key] for key in keys})
        change = float((model.predict(other, model.see(other)) - base).abs().max())
    yield judged("alignment-reaches-action", change)


def lonely_pairs(subject: Subject) -> Iterator[Check]:
    """Yield checks of the share of pairs in a batch that have no negative, counted as in the log of a training run."""
    if not subject.model.aligns:
        return
    with torch.no_grad():
        log = subject.losses(subject.batch).log
    for view in subject.model.views:
        lonely = int(log[f"no_negative/{view.key}"])
        pairs = lonely + int(log[f"pairs/{view.key}"])
        share = lonely / pairs if pairs else math.nan
        advice = f"set contact_share to 0.5 or more, {lower_gap(subject, view.sensor)}or raise batch_size"
        yield judged("pairs-without-negatives", share, view.key, measured=f"{lonely} of {pairs}", advice=advice)


def parameters(subject: Subject) -> Table:
    """Return a table with the number of parameters, the number trained and the learning rates of each model part."""
    return parameter_table(subject.model, make_optimiser(subject.model, subject.config)[0])


def _held_by_optimiser(subject: Subject) -> set[int]:
    optimiser, _ = make_optimiser(subject.model, subject.config)
    return {id(p) for group in optimiser.param_groups for p in group["params"]}
