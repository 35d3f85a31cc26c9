"""Add one module or loss at a time, diagnose each, and name the first that breaks a check."""

from collections.abc import Iterator
from dataclasses import dataclass

from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor.diagnose import diagnose
from tactile_align.diagnostics.doctor.subject import Diagnosis
from tactile_align.training.data import Data, load_data


@dataclass(frozen=True)
class Ablation:
    """What `ablate` found.

    Attributes:
        steps: What was added and its diagnosis, in order; each step has all before it.
    """

    steps: tuple[tuple[str, Diagnosis], ...]

    @property
    def first_broken(self) -> str | None:
        """The first addition that breaks a check, None where none does."""
        return next((name for name, found in self.steps if found.broken), None)

    def text(self) -> str:
        """Return a table for people."""
        width = max(len(name) for name, _ in self.steps)
        lines = []
        for name, found in self.steps:
            bad = [f"{f.check} ({f.seen})" for f in found.findings if f.status == "broken"]
            lines.append(f"{'BROKEN' if bad else 'ok':6} {name:{width}}  {'; '.join(bad)}".rstrip())
        first = self.first_broken
        lines.append("nothing breaks" if first is None else f"the first to break a check: {first}")
        return "\n".join(lines)


def ablate(config: TrainConfig, *, data: Data | None = None, progress: bool = False, processes: int = 1) -> Ablation:
    """Rebuild a config piece by piece, from the plain policy up, and diagnose model and learning at each step.

    Args:
        config: The whole run.
        data: Moments already loaded for it; None loads them.
        progress: Show progress bars on stderr.
        processes: How many processes prepare episodes.
    """
    data = data or load_data(config, processes, progress)
    found = []
    for name, part in grown(config):
        found.append((name, diagnose(part, data=data, parts=["model", "learning"])))
        if found[-1][1].broken:
            break
    return Ablation(tuple(found))


def grown(config: TrainConfig) -> Iterator[tuple[str, TrainConfig]]:
    """Yield what is added and the config so far; only pieces that the whole config has are added."""
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
        yield "the policy on joints alone", now
        pieces = ("cameras", "region_tokens", "touch_tokens")
        for name in (piece for piece in pieces if getattr(whole_policy, piece)):
            policy = policy.model_copy(update={name: getattr(whole_policy, name)})
            now = now.model_copy(update={"policy": policy})
            yield f"policy.{name}", now
    for name in ("weight", *(n for n in bare if n != "weight")):
        if getattr(whole_hsa, name) == bare[name]:
            continue
        hsa = hsa.model_copy(update={name: getattr(whole_hsa, name)})
        now = now.model_copy(update={"hsa": hsa})
        yield f"hsa.{name} = {getattr(whole_hsa, name)}", now
    if config.alignment != joint:
        yield f"alignment.mode = {config.alignment.mode}", config
