"""Run a trained policy: raw images, joints and touches in, actions in robot units out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.config.train import TrainConfig, load_config
from tactile_align.datasets.contact import contact_of
from tactile_align.errors import InputError
from tactile_align.moments.augment import augment
from tactile_align.moments.batch import ObservationBatch, TouchImages, ViewBatch
from tactile_align.moments.facts import only_certain
from tactile_align.moments.frames import input_image
from tactile_align.moments.inputs import Input
from tactile_align.moments.normalisation import Statistics
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.build import inputs_of, make_model
from tactile_align.policies.checkpoint import best_checkpoint, load_checkpoint, load_weights
from tactile_align.policies.observation import Needs, Observation, checked
from tactile_align.projection.episode_boxes import HeldOpening, ViewBoxes, hand_of


class TemporalEnsembler:
    """Online temporal ensembling (Zhao et al. 2023, section IV-B).

    Of the predictions for one step, number i counted from the OLDEST weighs exp(-coefficient * i): a positive
    coefficient trusts old plans more, 0 is the plain mean. One chunk must be predicted at every step.
    """

    def __init__(self, chunk_size: int, coefficient: float = 0.01) -> None:
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1; got {chunk_size}. Take the policy's chunk_size.")
        self.chunk_size, self.coefficient = chunk_size, coefficient
        self.reset()

    def reset(self) -> None:
        """Forget all predictions: call at the start of each episode."""
        self._mean: Tensor | None = None
        self._calls = 0

    def update(self, actions: Tensor) -> Tensor:
        """Take the chunk predicted now and return the action to execute now.

        Args:
            actions: (..., C, A); row j is meant for j steps from now.

        Returns:
            (..., A), dtype and device of `actions`.

        Raises:
            ValueError: The chunk has another length, or another shape than the one before.
        """
        c = self.chunk_size
        if actions.ndim < 2 or actions.shape[-2] != c:
            raise ValueError(
                f"needed a chunk of shape (..., {c}, A); got {tuple(actions.shape)}. "
                "Pass whole chunks, as the policy predicts them."
            )
        if self._mean is not None and self._mean.shape != actions.shape:
            raise ValueError(
                f"the chunk before had shape {tuple(self._mean.shape)}, this one has {tuple(actions.shape)}. "
                "Call reset() between episodes."
            )
        mean = actions
        if self._mean is not None:
            # Row j has been predicted before by every call that reached it, at most C - 1 - j of them.
            before = torch.arange(c - 1, -1, -1, device=actions.device).clamp(max=self._calls)
            weights = torch.exp(-self.coefficient * torch.arange(c, device=actions.device, dtype=actions.dtype))
            share = (weights[before] / weights.cumsum(0)[before])[:, None]
            mean = self._mean + (actions - self._mean) * share
        self._calls = min(self._calls + 1, c - 1)
        # The new last row has no prediction yet; the next one takes the whole share (before = 0) over this 0.
        self._mean = torch.cat((mean[..., 1:, :], torch.zeros_like(mean[..., :1, :])), -2)
        return mean[..., 0, :]


ENTER, LEAVE = 4.0, 2.0  # grey levels; `contact_of` never calls less than 2 a contact, and knows the noise better


class ContactWatch:
    """Whether one sensor touches something, frame by frame, against a no-contact reference.

    `datasets.contact` sees whole episodes; a robot sees only the past. So the reference is the given touch without
    contact, or the first frame after a reset.
    """

    def __init__(self, free: np.ndarray | None = None) -> None:
        self.free, self.touching = free, False

    def update(self, touch: np.ndarray) -> bool:
        """Take the next touch (H, W, 3) uint8 and tell whether it is in contact.

        Raises:
            ValueError: A touch of another size than the reference.
        """
        score = float(contact_of([touch], reference=self.against(touch)).score[0])
        self.touching = score > (LEAVE if self.touching else ENTER)
        return self.touching

    def against(self, touch: np.ndarray) -> np.ndarray:
        """Return the no-contact reference of a touch (H, W, 3) uint8: the one given, or else the first touch.

        Raises:
            InputError: A touch of another size than the reference.
        """
        if self.free is None:
            self.free = touch.copy()
        if touch.shape != self.free.shape:
            raise InputError(
                f"the no-contact reference has shape {self.free.shape}, this touch {touch.shape}; call reset()"
            )
        return self.free


class Policy:
    """A policy with its rig, its statistics, and what it remembers between steps.

    Args:
        model: The network, with trained weights.
        config: What it was trained with.
        rig: The cell it acts in.
        statistics: From its training episodes.
        sizes: (width, height) by stream, as recorded in training.
        ensemble: Coefficient of temporal ensembling; None returns chunks.
        device: Where the network runs.
    """

    def __init__(
        self,
        model: AlignedPolicy,
        config: TrainConfig,
        rig: Rig,
        statistics: Statistics,
        sizes: Mapping[str, tuple[int, int]],
        ensemble: float | None = None,
        device: str = "cpu",
    ) -> None:
        if model.act is None:
            raise InputError(
                "this run trained the alignment alone (train_policy = false), so it has no actions to give"
            )
        self.device = torch.device(device)
        self.model, self.config, self.rig, self.statistics = model.eval().to(self.device), config, rig, statistics
        self.views = tuple(view for view in model.views if model.reads_regions)
        self.inputs = tuple(entry for entry in inputs_of(config, rig) if self._uses(entry))
        sensors = [view.sensor for view in self.views]
        self._held = {arm: HeldOpening(rig, arm) for arm in (hand_of(rig, name) for name in sensors) if arm}
        self._holding = tuple(name for held in self._held.values() for name in held.sensors)
        differing = [entry.key for entry in self.inputs if entry.difference]
        self._watched = tuple(dict.fromkeys([*sensors, *self._holding, *differing]))
        self.needs = self._needs(sizes)
        chunk = model.act.config.chunk_size
        self._ensembler = None if ensemble is None else TemporalEnsembler(chunk, ensemble)
        self.reset()

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        ensemble: float | None = None,
        rig: Rig | str | Path | None = None,
        checkpoint: str | Path | None = None,
        device: str = "cpu",
    ) -> Policy:
        """Load the best checkpoint of a run.

        Args:
            run: The run folder.
            ensemble: Coefficient of temporal ensembling, 0.01 in the paper, for one action at a time; None: chunks.
            rig: The cell to act in; None takes the run's.
            checkpoint: Another checkpoint than the best.
            device: Where the network runs.

        Raises:
            FactError, FileNotFoundError: The folder holds no whole run.
            ValueError: The run has no policy.
        """
        folder = Path(run)
        config = load_config(folder / "config.toml")
        statistics = Statistics.load(folder / "statistics.json")
        path = best_checkpoint(folder / "checkpoints") if checkpoint is None else Path(checkpoint)
        state = load_checkpoint(path)
        model = make_model(config, len(statistics.qpos_mean), len(statistics.action_mean), fill=False)
        load_weights(model, state, path)
        cell = rig if isinstance(rig, Rig) else load_rig(folder / "rig.toml" if rig is None else rig)
        sizes = {name: (int(width), int(height)) for name, (width, height) in state["sizes"].items()}
        return cls(model, config, cell, statistics, sizes, ensemble, device)

    def reset(self, free: Mapping[str, np.ndarray] | None = None) -> None:
        """Forget everything remembered between steps: call at the start of each episode.

        Args:
            free: The no-contact reference by sensor, (H, W, 3) uint8. Without one, the first touch after the reset must
                be without contact. It is used only where the gripper reports commands, to detect contact of any sensor
                of the hand, and for features.touch_input = "difference", as the reference of the differences.
        """
        given = dict(free or {})
        if unknown := set(given) - set(self._watched):
            raise InputError(
                f"free names {sorted(unknown)}; the policy looks for {', '.join(self._watched) or 'no sensor'}"
            )
        for name, touch in given.items():
            if not isinstance(touch, np.ndarray) or touch.dtype != np.uint8 or touch.shape[2:] != (3,):
                came = f"{touch.dtype} {touch.shape}" if isinstance(touch, np.ndarray) else type(touch).__name__
                raise InputError(
                    f"free['{name}'] must be a touch (H, W, 3) uint8 RGB without contact, as recorded; got {came}"
                )
        self._watch = {name: ContactWatch(given.get(name)) for name in self._watched}
        for held in self._held.values():
            held.onset = None
        if self._ensembler is not None:
            self._ensembler.reset()

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """Return what to do now.

        Args:
            observation: See `policies.observation.checked`, and `needs.text()` for this policy's own.

        Returns:
            (C, A) the chunk of actions from now on, or with ensembling (A,) the action to execute now; float64, robot
            units.

        Raises:
            ValueError: Anything wrong with the observation; nothing is remembered of it.
        """
        watches = [(watch, watch.free, watch.touching) for watch in self._watch.values()]
        onsets = [(held, held.onset) for held in self._held.values()]
        try:
            batch = self.batch(checked(observation, self.needs))
        except ValueError:
            for watch, free, touching in watches:
                watch.free, watch.touching = free, touching
            for held, onset in onsets:
                held.onset = onset
            raise
        output = self.model.predict(batch, self.model.see(batch, alignment=False))
        actions = self.statistics.restore_action(output.actions[0].double().cpu())
        return np.asarray(actions if self._ensembler is None else self._ensembler.update(actions))

    def batch(self, observation: Observation) -> ObservationBatch:
        """Return a batch of one moment, made exactly as in training; advances the contact hold."""
        contact = {name: self._touches(name, observation) for name in self._holding}
        openings = {arm: held.step(observation.qpos, contact) for arm, held in self._held.items()}
        views: dict[str, ViewBatch] = {}
        touches: dict[str, TouchImages] = {}
        frames: dict[str, Tensor] = {}
        for entry in self.inputs:
            if entry.sensor is not None:
                views[entry.key] = self._view(
                    entry, entry.sensor, observation, openings.get(hand_of(self.rig, entry.sensor))
                )
                continue
            image = self._image(entry, observation)
            if entry.key in self.model.sensors:
                touches[entry.key] = TouchImages(image=_row(image))
            else:
                frames[entry.stream] = _row(image)
        qpos = _row(self.statistics.normalise_qpos(observation.qpos).astype(np.float32))
        batch = ObservationBatch(qpos=qpos, views=views, touches=touches, frames=frames)
        return augment(batch, self.config.augment).to(self.device)

    def _view(self, entry: Input, sensor: str, observation: Observation, opening: np.ndarray | None) -> ViewBatch:
        frame, exposed = observation.frames[entry.stream], observation.exposure_qpos.get(entry.stream, observation.qpos)
        view = ViewBoxes(self.rig, entry.stream, sensor, exposed, opening, entry.ahead_m)
        box, visible = np.asarray(view.boxes.box), np.asarray(view.boxes.visible)
        if entry.uncertain:
            box, visible = only_certain(box, visible, view.sigma_px)
        there = entry.image_map(frame.shape[1], frame.shape[0], box)
        return ViewBatch(
            image=_row(there.apply_to_image(frame)),
            box=_row(there.apply_to_box(box).astype(np.float32)),
            visible=torch.tensor([bool(visible)]),
            sigma=_row((np.abs(there.scale) * view.sigma_px).astype(np.float32)) if entry.uncertain else None,
        )

    def _image(self, entry: Input, observation: Observation) -> np.ndarray:
        frame = observation.frames[entry.stream]
        scaled = entry.image_map(frame.shape[1], frame.shape[0]).apply_to_image
        return input_image(entry, scaled(frame), lambda: scaled(self._reference(entry.key, frame, observation)))

    def _reference(self, sensor: str, touch: np.ndarray, observation: Observation) -> np.ndarray:
        watch = self._watch[sensor]
        if watch.free is None and observation.contact.get(sensor, False):
            raise InputError(
                f"the first touch of '{sensor}' after reset() is stated to be in contact, but this policy sees touches "
                f"as differences to a no-contact reference. Give it one: reset(free={{'{sensor}': touch}})"
            )
        return watch.against(touch)

    def _touches(self, sensor: str, observation: Observation) -> bool:
        stated = observation.contact.get(sensor)
        return (
            self._watch[sensor].update(observation.frames[self.rig.sensor(sensor).stream]) if stated is None else stated
        )

    def _uses(self, entry: Input) -> bool:
        if entry.sensor is not None:
            return bool(self.views)
        return self.model.reads_touches or entry.key not in self.model.sensors

    def _needs(self, sizes: Mapping[str, tuple[int, int]]) -> Needs:
        touches = {entry.stream for entry in self.inputs if entry.key in self.model.sensors}
        cameras = {entry.stream for entry in self.inputs} - touches
        for_contact = {self.rig.sensor(name).stream: name for name in self._holding}
        for_contact = {stream: name for stream, name in for_contact.items() if stream not in touches}
        touches |= set(for_contact)
        size = {name: (c.stored.width, c.stored.height) for name, c in self.rig.cameras.items()}
        return Needs(
            state_dim=len(self.statistics.qpos_mean),
            cameras={name: size.get(name, sizes.get(name)) for name in sorted(cameras)},
            touches={name: sizes.get(name) for name in sorted(touches)},
            sensors=tuple(sorted(self._watched)),
            for_contact=for_contact,
            delayed=tuple(sorted({v.camera for v in self.views if self.rig.camera(v.camera).delay_s != 0.0})),
        )


def _row(values: np.ndarray) -> Tensor:
    """Return an array as the only row of a tensor."""
    return torch.from_numpy(np.ascontiguousarray(values))[None]
