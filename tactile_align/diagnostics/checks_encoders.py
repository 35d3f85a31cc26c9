"""The doctor's checks of the encoders: what reaches them, how often, and whose features come out."""

import torch

from tactile_align.diagnostics.findings import Finding, judged
from tactile_align.diagnostics.modules import first_inputs, towers_of
from tactile_align.diagnostics.patient import Patient


def encoder_checks(patient: Patient) -> list[Finding]:
    """Return all findings about the encoders."""
    return [encoder_weights(patient), *normalisation(patient), passes(patient), *pairing(patient)]


def encoder_weights(patient: Patient) -> Finding:
    """Whether the encoders start from trained weights."""
    towers = patient.model.towers
    scratch = towers is not None and towers.scratch
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
        keys = [f"image/{s}" for s in model.sensors] if name == "towers.touch" else []
        keys = keys or [f"image/{view.key}" for view in model.views]
        if model.towers is not None and model.towers.vision is model.towers.touch:
            keys = [*(f"image/{s}" for s in model.sensors), *keys]
        if model.region == "opening":
            keys = [key for key in keys if key.removeprefix("image/") in model.sensors]
        mean, std = _own_statistics(tower)
        pixels = torch.cat([patient.batch[key].permute(0, 3, 1, 2) for key in keys]).float() / 255
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
    batch = len(patient.batch["qpos"])
    allowed = 2 + len(patient.model.views) * patient.model.hsa.looks_beside
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
    if model.towers is None:
        return []
    with torch.no_grad():
        before = model.see(patient.batch)
        for view in model.views:
            for what, key in (("touch", view.sensor), ("region", view.key)):
                if what == "region" and model.region == "opening":
                    continue
                row = len(patient.batch["qpos"]) // 2
                image = patient.batch[f"image/{key}"].clone()
                image[row] = 255 - image[row]
                after = model.see({**patient.batch, f"image/{key}": image})
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
