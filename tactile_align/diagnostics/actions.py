"""Action errors of a policy and of simple predictors (controls), by phase of contact, and differences between runs."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from tactile_align.diagnostics.intervals import mean_interval
from tactile_align.diagnostics.probes import ridge
from tactile_align.diagnostics.summary import ERRORS, LINEAR, ActionError, Difference, PhaseError
from tactile_align.evenly import evenly
from tactile_align.moments.columns import Columns
from tactile_align.moments.dataset import Moments
from tactile_align.policies.build import LoadedRun

POLICY, STILL, LAST = "policy", "standing still", "last action"
TOUCH, REGION = "touch shuffled", "region shuffled"
JUDGED = 1500
"""Approximate largest number of moments at which errors are computed; they are evenly spaced."""
FITTED = 5000
"""Largest number of training moments that the linear control is fitted to."""
NEAR_CHANGE = 3
"""Number of rows before and after the start or end of a contact that count as "transition"; 0.3 s at 10 frames/s."""


@dataclass(frozen=True)
class ActionMoments:
    """Action errors at R moments. Each moment has a chunk of C future actions; each action has A columns, robot units.

    Attributes:
        episode: (R,) index of the episode of each moment.
        time: (R,) frame number of each moment in its episode.
        phase: (R,) str, "free", "contact" or "transition", see `contact_phases`; "" without a touch sensor.
        real: (R, C) bool, which steps of a chunk lie inside the episode; the other steps are padding.
        columns: (R, C, A) absolute errors by name of the predictor: "policy", "last action", and "standing still" if
            the kinds of action are known.
        errors: (R, C) absolute errors averaged over the columns, by name of the predictor: "policy" and the controls of
            `action_moments`.
        meaning: Meaning of the columns; None if it is not known.
    """

    episode: np.ndarray
    time: np.ndarray
    phase: np.ndarray
    real: np.ndarray
    columns: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    meaning: Columns | None = None

    def error(self) -> ActionError:
        """Return the mean errors of the policy and of "standing still" (see `action_moments`), by action column."""
        means = {row: tuple(_over_steps(e, self.real).mean(axis=0).tolist()) for row, e in self.columns.items()}
        return ActionError(
            per_column=means[POLICY],
            first_step=tuple(self.columns[POLICY][:, 0].mean(axis=0).tolist()),
            moments=len(self.episode),
            standing_still_per_column=means.get(STILL),
            last_action_per_column=means.get(LAST),
            columns=self.meaning.action if self.meaning else (),
            standing_still_is=self.meaning.source if self.meaning else "",
        )

    def phases(self) -> dict[str, dict[str, PhaseError]]:
        """Return the action error by phase of contact, then by predictor: the policy and its controls.

        The error of a control also contains the paired difference to the policy.
        """
        table: dict[str, dict[str, PhaseError]] = {}
        for phase, chosen in self.rows().items():
            episode, policy = self.episode[chosen], self.of(POLICY)[chosen]
            table[phase] = {}
            for row in self.errors:
                values = self.of(row)[chosen]
                base = None if row == POLICY else Difference.of(values, policy, episode, bounds=ERRORS)
                interval = mean_interval(values, episode, bounds=ERRORS)
                episodes = len(np.unique(episode))
                table[phase][row] = PhaseError(float(values.mean()), len(chosen), episodes, interval, base)
        return table

    def rows(self) -> dict[str, np.ndarray]:
        """Return the indices of the moments by phase of contact; the phase "all" contains every moment."""
        phases = {phase: np.flatnonzero(self.phase == phase) for phase in ("free", "contact", "transition")}
        return {"all": np.arange(len(self.phase))} | {name: rows for name, rows in phases.items() if len(rows)}

    def of(self, row: str, chunk: int | None = None) -> np.ndarray:
        """Return the error of one predictor at each of R moments, (R,), averaged over the steps of a chunk.

        Args:
            row: Name of the predictor, a key of `errors`.
            chunk: Number of steps to average over, from the first step; None: all steps. Padding is left out.
        """
        return _over_steps(self.errors[row][:, :chunk], self.real[:, :chunk])


def _over_steps(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the means (R, ...) of values (R, C, ...) over the steps (R, C) that are `real`."""
    steps = real.reshape(*real.shape, *[1] * (values.ndim - 2))
    return np.asarray(np.where(steps, values, 0).sum(axis=1) / steps.sum(axis=1))


def common_phases(runs: Iterable[ActionMoments]) -> dict[str, np.ndarray]:
    """Return the indices of moments by phase of contact, taken from the first run that has touch sensors.

    Args:
        runs: Action errors of at least one run; all runs are evaluated at the same moments.
    """
    first, *others = runs
    return next((run for run in (first, *others) if run.phase[0]), first).rows()


def compare_actions(runs: dict[str, ActionMoments], comparisons: int) -> dict[str, dict[str, Difference]]:
    """Return the policy's action error in each further run minus that in the first run, by phase, then by run.

    The phases are those of `common_phases`.

    Runs whose chunks differ in length are compared over the length of the shortest chunk.

    Args:
        runs: Action errors of at least two runs on the same moments, by the name of the run.
        comparisons: Number of intervals that must all contain their true values with 95 % probability (Bonferroni).
    """
    first, *_ = runs.values()
    chunk = min(run.real.shape[1] for run in runs.values())
    table: dict[str, dict[str, Difference]] = {}
    for phase, chosen in common_phases(runs.values()).items():
        episode, base = first.episode[chosen], first.of(POLICY, chunk)[chosen]
        table[phase] = {
            name: Difference.of(run.of(POLICY, chunk)[chosen], base, episode, bounds=ERRORS, comparisons=comparisons)
            for name, run in list(runs.items())[1:]
        }
    return table


@torch.no_grad()
def action_moments(run: LoadedRun, train: Moments) -> ActionMoments:
    """Return the action errors of a policy and of its controls at the moments of a run, robot units.

    The latent of the policy is zero, as on the robot. The controls are: "standing still" (see `Columns.still`), if the
    kinds of action are known; "last action" (all actions of a chunk equal the action before the moment, or the mean
    training action at the start of an episode); "linear in joints" (a ridge regression from state to chunk); "touch
    shuffled" and "region shuffled" (the policy with touch or region tokens of a random moment of another episode), if
    the policy uses these tokens and at least two episodes exist.

    Args:
        run: Run with a policy.
        train: Training moments of the run, to fit the linear control.

    Raises:
        ValueError: The moments are not normalised.
    """
    moments, statistics, model = run.moments, run.moments.statistics, run.model
    if statistics is None:
        raise ValueError("expected normalised moments; got moments as recorded. Use `Moments.normalised`")
    rows = np.arange(0, len(moments), max(1, len(moments) // JUDGED))
    episode = moments.episode[rows]
    donors = other_episodes(episode)
    predictions: dict[str, list[np.ndarray]] = {}
    recorded, states, real, done = [], [], [], 0
    for batch in run.batches(rows):
        chunk = statistics.restore_action(batch.action.double())
        features = model.see(batch, alignment=False)
        variants = {POLICY: (batch, features)}
        if donors is not None and (model.reads_touches or model.reads_regions):
            other = run.batch(rows[donors[done : done + len(batch)]])
            seen = model.see(other, alignment=False)
            if model.reads_touches:
                variants[TOUCH] = batch, replace(features, touches=seen.touches)
            if model.reads_regions:
                visible = {k: replace(v, visible=other.views[k].visible) for k, v in batch.views.items()}
                variants[REGION] = replace(batch, views=visible), replace(features, regions=seen.regions)
        for row, (shown, given) in variants.items():
            predicted = statistics.restore_action(model.predict(shown, given).double())
            predictions.setdefault(row, []).append((predicted - chunk).abs().cpu().numpy())
        recorded.append(chunk.cpu().numpy())
        states.append(batch.qpos_raw.cpu().numpy())
        real.append(~batch.is_pad.cpu().numpy())
        done += len(batch)
    errors = {row: np.concatenate(parts) for row, parts in predictions.items()}
    actions, state = np.concatenate(recorded), np.concatenate(states)
    columns = {POLICY: errors[POLICY]}
    last = moments.last_actions(np.array(statistics.action_mean))[rows]
    still = statistics.columns.still(state, last) if statistics.columns is not None else None
    if still is not None:
        columns[STILL] = errors[STILL] = np.abs(still[:, None] - actions)
    columns[LAST] = errors[LAST] = np.abs(last[:, None] - actions)
    errors[LINEAR] = np.abs(linear_in_joints(train, state, actions.shape[1]) - actions)
    order = [row for row in (POLICY, STILL, LAST, LINEAR, TOUCH, REGION) if row in errors]
    return ActionMoments(
        episode=episode,
        time=moments.time[rows],
        phase=contact_phases(moments)[rows],
        real=np.concatenate(real),
        columns=columns,
        errors={row: errors[row].mean(axis=2) for row in order},
        meaning=statistics.columns,
    )


def linear_in_joints(train: Moments, state: np.ndarray, chunk: int) -> np.ndarray:
    """Return action chunks predicted from robot states by a ridge regression, robot units.

    Args:
        train: Training moments, to which the regression is fitted.
        state: (R, D) states of R moments, D numbers each.
        chunk: Number of actions in a chunk, C.

    Returns:
        (R, C, A) chunks of C actions with A columns each.
    """
    joints, actions = (np.concatenate(parts) for parts in zip(*train.low_dim(), strict=True))
    lengths = [len(qpos) for qpos, _ in train.low_dim()]
    some = evenly(len(joints), FITTED)
    last = np.repeat(np.cumsum(lengths) - 1, lengths)[some]
    y = actions[np.minimum(some[:, None] + np.arange(chunk), last[:, None])]
    predicted = ridge(joints[some], y.reshape(len(y), -1), np.ones(len(y)), state, 1e-4)
    return predicted.reshape(len(state), *y.shape[1:])


def contact_phases(moments: Moments) -> np.ndarray:
    """Return the phase of each of N moments, (N,) str; "" without a touch sensor.

    transition: the contact of a sensor begins or ends within `NEAR_CHANGE` rows of the episode. Of a short contact, or
    of a short time between two contacts, at most the first and the last third are a transition. contact: any other
    moment at which a sensor is in contact. free: any other moment at which no sensor is in contact.

    Args:
        moments: The N moments.
    """
    episode = moments.episode
    if not moments.touches:
        return np.full(len(episode), "", dtype="<U10")
    contact = np.stack([facts.contact for facts in moments.touches.values()])
    phase = np.where(contact.any(axis=0), "contact", "free").astype("<U10")
    same = episode[1:] == episode[:-1]
    ends = 1 + np.flatnonzero((contact[:, 1:] != contact[:, :-1]).any(axis=0) | ~same)
    edges = [(int(row), bool(same[row - 1])) for row in ends]
    for (start, begins), (end, stops) in pairwise([(0, False), *edges, (len(episode), False)]):
        near = min(NEAR_CHANGE, (end - start) // 3)
        if begins:
            phase[start : start + near] = "transition"
        if stops:
            phase[end - near : end] = "transition"
    return phase


def other_episodes(episode: np.ndarray) -> np.ndarray | None:
    """Return, for each of N moments, the index of a random moment of another episode, (N,); None for one episode.

    Args:
        episode: (N,) index of the episode of each moment.
    """
    if len(np.unique(episode)) == 1:
        return None
    rng = np.random.default_rng(0)
    donors = np.empty(len(episode), dtype=np.int64)
    for number in np.unique(episode):
        here = episode == number
        donors[here] = rng.choice(np.flatnonzero(~here), here.sum())
    return donors
