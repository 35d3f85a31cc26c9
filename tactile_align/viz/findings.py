"""The verdict on a run in plain words: each sentence with the numbers it rests on."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tactile_align.viz.run_folder import Json, Run

Outcome = Literal["good", "look", "bad", "open"]
HSA_BAR = 0.9
"""Held-out HSA as a share of its chance level, up to which features say something about the pair."""


RISEN = 0.02
"""By which share of its best value the held-out loss may rise before it is worth a word."""


@dataclass(frozen=True)
class Finding:
    """One sentence: good, worth a look, bad, or open where nothing was measured."""

    outcome: Outcome
    text: str


def findings(run: Run) -> list[Finding]:
    """Return what a reader should know first, the gravest first within each topic."""
    return [*_training(run), *_remarks(run), *_scratch(run), *_views(run), *_actions(run), *_checks(run)]


def _training(run: Run) -> Iterator[Finding]:
    steps = [record["step"] for record in run.metrics if record.get("kind") == "train"]
    planned = run.config.get("steps")
    if not steps:
        yield Finding("open", "No training step is logged yet.")
        return
    broken = [r["step"] for r in run.metrics if "loss" in r and r["loss"] is None]
    if broken:
        yield Finding("bad", f"The loss was not a finite number at step {broken[0]}: training diverged.")
    elif isinstance(planned, int) and max(steps) < planned and run.live:
        yield Finding("open", f"Training has reached step {max(steps)} of {planned}.")
    elif isinstance(planned, int) and max(steps) < planned:
        text = f"Training stopped at step {max(steps)} of {planned}. Go on with: tactile-align train CONFIG --resume"
        yield Finding("look", text)
    else:
        yield Finding("good", f"Training ran through: {max(steps)} steps.")
    yield from _overfitting(run)


def _overfitting(run: Run) -> Iterator[Finding]:
    steps, losses = run.series("validation", "loss")
    known = [(loss, step) for step, loss in zip(steps, losses, strict=True) if loss is not None]
    if not known:
        return
    (best, at), (last, _) = min(known), known[-1]
    if last > best + RISEN * abs(best):
        yield Finding(
            "look",
            f"The held-out loss was lowest at step {at} ({best:.3f}) and has risen to {last:.3f} since: the run learns "
            f"its episodes by heart. evaluate judges the best checkpoint; more episodes or fewer steps help.",
        )


def _remarks(run: Run) -> Iterator[Finding]:
    """Repeat what the checks said while the run trained."""
    for record in run.metrics:
        if record.get("kind") == "finding":
            yield Finding("look", f"Said at step {record['step']}, {record.get('check')}: {record.get('text')}.")


def _scratch(run: Run) -> Iterator[Finding]:
    if run.scratch:
        yield Finding(
            "look",
            "SCRATCH: an encoder began from random weights. Numbers say that the parts work together, not how good "
            "pretrained features would be.",
        )


def _views(run: Run) -> Iterator[Finding]:
    views = (run.summary or {}).get("views", {})
    if not views:
        yield Finding("open", f"Retrieval was not measured. Measure it with: tactile-align evaluate {run.folder}")
    for name, view in views.items():
        yield from _loss(name, view)
        yield from _retrieval(name, view)


def _loss(name: str, view: Json) -> Iterator[Finding]:
    loss = view.get("loss", {})
    hsa, chance = loss.get("hsa"), loss.get("chance")
    if not (_is_number(hsa) and _is_number(chance) and chance > 0):
        return
    share = hsa / chance
    outcome: Outcome = "good" if share <= HSA_BAR else ("look" if share < 1 else "bad")
    told = "below" if share <= HSA_BAR else ("hardly below" if share < 1 else "not below")
    yield Finding(
        outcome,
        f"{name}: on held-out episodes the alignment loss is {hsa:.3f}, {told} its chance level {chance:.3f} "
        f"({share:.2f} of it; up to {HSA_BAR} counts as learnt).",
    )


def _retrieval(name: str, view: Json) -> Iterator[Finding]:
    both = view.get("retrieval", {}).get("both")
    if not both:
        return
    at, (low, high) = both["at"]["1"], both["interval"]["1"]
    chance, size = both["chance"]["1"], both["gallery"]
    text = (
        f"{name}: among {size} candidates the right partner comes first in {_percent(at)} of cases "
        f"(95 % interval {_percent(low)} to {_percent(high)}); chance is {_percent(chance)}"
    )
    outcome: Outcome = "good" if low > chance else "bad"
    text += "" if low > chance else ", which the interval does not exclude"
    other = (view.get("opening_only") or {}).get("retrieval", {}).get("both")
    if other:
        base, base_high = other["at"]["1"], other["interval"]["1"][1]
        text += f"; the gripper's opening alone reaches {_percent(base)}"
        if low > base_high:
            text += ", clearly less"
        elif low > base:
            text += ", less, though the intervals touch"
        else:
            text += ": touch and image need not have been used"
            outcome = "bad" if outcome == "bad" or at <= base else "look"
    yield Finding(outcome, text + ".")


def _actions(run: Run) -> Iterator[Finding]:
    error = (run.summary or {}).get("action_error")
    if not error:
        return
    policy = _mean(error["per_column"])
    still = error.get("standing_still_per_column")
    text = f"The policy's mean absolute action error on held-out episodes is {policy:.4f} (robot units, all columns)"
    if still is None:
        yield Finding("open", text + ".")
        return
    good = policy < _mean(still)
    compared = "less" if good else "not less"
    yield Finding("good" if good else "bad", f"{text}, {compared} than standing still ({_mean(still):.4f}).")


def _checks(run: Run) -> Iterator[Finding]:
    for data, title, how in (
        (run.verification, "The rig against the recordings", "verify"),
        (run.doctor, "The doctor", "doctor"),
    ):
        if data is None:
            continue
        verdict = str(data.get("verdict", "open"))
        outcomes: dict[str, Outcome] = {"pass": "good", "warn": "look", "fail": "bad"}
        bad = [str(c.get("name")) for c in data.get("checks", []) if c.get("outcome") in ("warn", "fail")]
        named = f" ({', '.join(bad[:4])}{' and more' if len(bad) > 4 else ''})" if bad else ""
        yield Finding(outcomes.get(verdict, "open"), f"{title}: {verdict}{named}. From: tactile-align {how}")
    if run.verification is None:
        verified = (run.rig or {}).get("verified")
        if verified:
            outcome: Outcome = "good" if verified.get("verdict") == "pass" else "look"
            text = f"The rig was verified on {verified.get('when')}: {verified.get('verdict')}."
            yield Finding(outcome, text)
        else:
            yield Finding("open", "The rig was not verified against recordings: run tactile-align verify.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
