"""Diagnosis of a training run before it starts: checks of data, model and a few training steps, with advice.

`ablate` repeats the diagnosis while modules and losses are added one by one, up to the first that fails a check.
"""

import copy
import logging
from collections.abc import Collection, Iterator
from typing import Any, Literal

import torch

from tactile_align.checks import Check, Report, Table
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor.data import data_checks
from tactile_align.diagnostics.doctor.learning import learning_checks
from tactile_align.diagnostics.doctor.limits import folded, stated
from tactile_align.diagnostics.doctor.memory import largest_batch
from tactile_align.diagnostics.doctor.model import model_checks, parameters
from tactile_align.diagnostics.doctor.pretraining import breaks, grown_objective, pretraining_checks
from tactile_align.diagnostics.doctor.subject import examine
from tactile_align.errors import InputError
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.training.data import Data, load_data
from tactile_align.training.loop import build_model

logger = logging.getLogger(__name__)

Part = Literal["data", "model", "learning", "memory"]
PARTS: tuple[Part, ...] = ("data", "model", "learning", "memory")
WORK: dict[Part, str] = {
    "data": "the data",
    "model": "the model",
    "learning": "a few training steps",
    "memory": "the largest batch that fits",
}


def diagnose(
    config: TrainConfig,
    *,
    data: Data | None = None,
    model: AlignedPolicy | None = None,
    parts: Collection[Part] = PARTS,
    progress: bool = False,
    processes: int = 1,
) -> Report:
    """Return a report with all checks of a config's data and model, made with a few dozen forward passes on the CPU.

    Args:
        config: Training config.
        data: Data already loaded for this config; None loads the data.
        model: Network to check, for example a trained one, which is not changed. None: a new network of the config.
        parts: Parts to check; of a pretraining run, all. data: the data and pairs. model: the model before any step.
            learning: a few training steps. memory: the largest batch that fits, on the run's device.
        progress: Show the progress on stderr: a bar while episodes are prepared, then a line for each part.
        processes: Number of processes that prepare episodes.

    Raises:
        ValueError: The data or the config cannot be used for training; the message states the reason and the place.
            Or the config has permuted pairs or two crops, whose losses the checks of pairs do not fit.
    """
    if config.hsa.weight > 0 and config.hsa.pairs != "true":
        raise InputError(
            f"doctor checks that a run learns from true pairs; got hsa.pairs = '{config.hsa.pairs}'. Check the config "
            f"with hsa.pairs = 'true', then train the control"
        )
    data = data or load_data(config, processes, progress)
    if config.pretrain is not None:
        with torch.random.fork_rng(devices=[]):
            return Report("doctor", f"pretraining run {config.out}", tuple(pretraining_checks(config, data)))
    network = build_model(config, data.train) if model is None else copy.deepcopy(model)

    def wanted(part: Part) -> bool:
        if part in parts and progress:
            logger.info(f"checking {WORK[part]}")
        return part in parts

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        subject = examine(config, data, network)
        checks = list(data_checks(subject)) if wanted("data") else []
        tables: tuple[Table, ...] = ()
        try:
            if wanted("model"):
                checks += list(model_checks(subject))
                tables = (parameters(subject),)
            if wanted("learning"):
                checks += learning_checks(subject)
            if wanted("memory"):
                checks.append(largest_batch(subject))
        except ValueError as error:
            why, advice = "training would stop with this error at its first step", "follow the advice in the error"
            checks.append(stated("training-step", "fail", str(error), "no error", why=why, advice=advice))
    return Report("doctor", f"training run {config.out}", tuple(folded(checks)), tables)


def ablate(
    config: TrainConfig, *, steps: int = 300, data: Data | None = None, progress: bool = False, processes: int = 1
) -> Report:
    """Return a report on a config that is rebuilt step by step, starting from the plain policy.

    Each step adds one field of the config, then checks the model and a few training steps. A config with [pretrain] is
    rebuilt from its objective without a codebook, and each step is a run of its own in a temporary folder, which fails
    with the findings of its watch.

    Args:
        config: The complete training config.
        steps: Number of training steps of each run of a config with [pretrain].
        data: Data already loaded for this config; None loads the data.
        progress: Show progress bars on stderr.
        processes: Number of processes that prepare episodes.

    Returns:
        One check per added field, `addition/FIELD`, in order; each step keeps the fields added before. The ablation
        ends with the first step that fails a check.

    Raises:
        InputError: The runs of a config with [pretrain] would end within the warm-up of the learning rates.
    """
    warmup = config.optimiser.warmup_steps
    if config.pretrain is not None and steps <= warmup:
        raise InputError(
            f"each run of the ablation needs more steps than optimiser.warmup_steps = {warmup}, before which the "
            f"learning rates are not reached; got steps = {steps}. Set --steps to {warmup + 1} or more, or lower "
            f"optimiser.warmup_steps"
        )
    data = data or load_data(config, processes, progress)
    checks: list[Check] = []
    pieces = grown(config) if config.pretrain is None else grown_objective(config)
    for field, value, part in pieces:
        if config.pretrain is not None:
            failed = breaks(part, data, steps)
        else:
            failed = [c for c in diagnose(part, data=data, parts=["model", "learning"]).checks if c.status == "fail"]
        checks.append(
            Check(
                id=f"addition/{field}",
                title=f"{field} = {value}",
                status="fail" if failed else "pass",
                measured="; ".join(f"{check.id}: {check.measured}" for check in failed) or "no check fails",
                limit="no check fails",
                why="; ".join(check.why for check in failed),
                advice="; ".join(dict.fromkeys(check.advice for check in failed)),
            )
        )
        if failed:
            break
    return Report("ablate", f"training run {config.out}, built up step by step", tuple(checks))


HSA: dict[str, Any] = {"weight": 0.0, "symmetric": False, "region_negatives": 0, "bank": 0, "touch_ceiling": None}
HSA |= {"hardness": 0.0, "finger_negative": False, "camera_negative": False, "hardest": None}
HSA |= {"learn_temperature": False, "temperature_final": None}
POLICY: dict[str, Any] = {"vision": "none", "region_tokens": False, "touch_tokens": False, "pointer_token": False}
POINTER: dict[str, Any] = {"history": False, "touch": False, "memory": False}
OFF = {"policy": POLICY, "hsa": HSA, "pointer": POINTER}
"""Value of each config field before the ablation adds it, by section of the config, in the order of addition. Tokens of
the pointer are added last."""


def grown(config: TrainConfig) -> Iterator[tuple[str, object, TrainConfig]]:
    """Yield the steps of the ablation: (added field, its value, config with all fields added so far).

    Only fields that the complete config uses are added. If the config trains a policy, the first step is the policy
    that uses joints only.

    Args:
        config: The complete training config.
    """
    joint = config.alignment.model_copy(update={"mode": "joint", "pretrain_steps": 0})
    used = {section: part for section in OFF if (part := getattr(config, section)) is not None}
    if config.hsa.weight == 0:
        del used["hsa"]  # options of a loss that is off change nothing
    bare = {section: part.model_copy(update=OFF[section]) for section, part in used.items()}
    now = config.model_copy(update={**bare, "alignment": joint, "pointer": None})
    if config.train_policy:
        yield "train_policy", "true, on joints alone", now
    fields = [(section, name) for section in used for name in OFF[section]]
    fields.sort(key=lambda field: field == ("policy", "pointer_token"))
    for section, name in fields:
        if section == "pointer" and now.pointer is None:
            now = now.model_copy(update={"pointer": bare["pointer"]})
            yield "pointer", f"views {', '.join(bare['pointer'].views)}", now
        value = getattr(used[section], name)
        if value != OFF[section][name] and (section != "policy" or config.train_policy):
            part = getattr(now, section).model_copy(update={name: value})
            now = now.model_copy(update={section: part})
            yield f"{section}.{name}", value, now
    if config.alignment != joint:
        yield "alignment.mode", config.alignment.mode, config
