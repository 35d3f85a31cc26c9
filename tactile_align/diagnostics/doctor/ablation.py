"""Add one module or loss at a time, diagnose each, and name the first that fails a check."""

from collections.abc import Iterator

from tactile_align.checks import Check, Report
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor.diagnose import diagnose
from tactile_align.training.data import Data, load_data


def ablate(config: TrainConfig, *, data: Data | None = None, progress: bool = False, processes: int = 1) -> Report:
    """Rebuild a config piece by piece, from the plain policy up, and diagnose model and learning at each step.

    Args:
        config: The whole run.
        data: Moments already loaded for it; None loads them.
        progress: Show progress bars on stderr.
        processes: How many processes prepare episodes.

    Returns:
        One check for each addition, `addition/FIELD`, in order; each has all before it. The first that fails is the
        last.
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
    return Report("ablate", f"training run {config.out}, built up piece by piece", tuple(checks))


def grown(config: TrainConfig) -> Iterator[tuple[str, object, TrainConfig]]:
    """Yield the field that is added, its value and the config so far; only pieces that the whole config has are added.

    The first is the policy on joints alone, where the config trains one.
    """
    whole_hsa, whole_policy = config.hsa, config.policy
    bare = {"weight": 0.0, "symmetric": False, "region_negatives": 0, "bank": 0, "touch_ceiling": None, "hardness": 0.0}
    bare |= {
        "finger_negative": False,
        "camera_negative": False,
        "hardest": None,
        "learn_temperature": False,
        "temperature_final": None,
    }
    hsa = whole_hsa.model_copy(update=bare)
    policy = whole_policy.model_copy(update={"region_tokens": False, "touch_tokens": False, "cameras": ()})
    joint = config.alignment.model_copy(update={"mode": "joint", "pretrain_steps": 0})
    now = config.model_copy(update={"hsa": hsa, "policy": policy, "alignment": joint})
    if config.train_policy:
        yield "train_policy", "true, on joints alone", now
        pieces = ("cameras", "region_tokens", "touch_tokens")
        for name in (piece for piece in pieces if getattr(whole_policy, piece)):
            policy = policy.model_copy(update={name: getattr(whole_policy, name)})
            now = now.model_copy(update={"policy": policy})
            yield f"policy.{name}", getattr(policy, name), now
    for name in ("weight", *(n for n in bare if n != "weight")):
        if getattr(whole_hsa, name) == bare[name]:
            continue
        hsa = hsa.model_copy(update={name: getattr(whole_hsa, name)})
        now = now.model_copy(update={"hsa": hsa})
        yield f"hsa.{name}", getattr(hsa, name), now
    if config.alignment != joint:
        yield "alignment.mode", config.alignment.mode, config
