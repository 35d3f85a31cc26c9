"""Ablation of a config: modules and losses are added one by one, up to the first addition that fails a check."""

from collections.abc import Iterator
from typing import Any

from tactile_align.checks import Check, Report
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor.diagnose import diagnose
from tactile_align.training.data import Data, load_data


def ablate(config: TrainConfig, *, data: Data | None = None, progress: bool = False, processes: int = 1) -> Report:
    """Return a report on a config that is rebuilt step by step, starting from the plain policy.

    Each step adds one field of the config, then checks the model and a few training steps.

    Args:
        config: The complete training config.
        data: Data already loaded for this config; None loads the data.
        progress: Show progress bars on stderr.
        processes: Number of processes that prepare episodes.

    Returns:
        One check per added field, `addition/FIELD`, in order; each step keeps the fields added before. The ablation
        ends with the first step that fails a check.
    """
    data = data or load_data(config, processes, progress)
    checks: list[Check] = []
    for field, value, part in grown(config):
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
OFF = {"policy": {"vision": "none", "region_tokens": False, "touch_tokens": False}, "hsa": HSA}
"""Value of each config field before the ablation adds it, by section of the config, in the order of addition."""


def grown(config: TrainConfig) -> Iterator[tuple[str, object, TrainConfig]]:
    """Yield the steps of the ablation: (added field, its value, config with all fields added so far).

    Only fields that the complete config uses are added. If the config trains a policy, the first step is the policy
    that uses joints only.

    Args:
        config: The complete training config.
    """
    joint = config.alignment.model_copy(update={"mode": "joint", "pretrain_steps": 0})
    bare = {section: getattr(config, section).model_copy(update=values) for section, values in OFF.items()}
    now = config.model_copy(update={**bare, "alignment": joint})
    if config.train_policy:
        yield "train_policy", "true, on joints alone", now
    fields = [(section, name, off) for section, values in OFF.items() for name, off in values.items()]
    for section, name, off in fields:
        value = getattr(getattr(config, section), name)
        if value != off and (section != "policy" or config.train_policy):
            part = getattr(now, section).model_copy(update={name: value})
            now = now.model_copy(update={section: part})
            yield f"{section}.{name}", value, now
    if config.alignment != joint:
        yield "alignment.mode", config.alignment.mode, config
