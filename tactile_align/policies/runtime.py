"""Trained policies at run time: from raw images, joints and touches to actions in robot units."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.config.train import TrainConfig, load_config
from tactile_align.datasets.contact import ContactWatch
from tactile_align.errors import InputError
from tactile_align.moments.augment import augment
from tactile_align.moments.batch import ObservationBatch, TouchImages, ViewBatch
from tactile_align.moments.facts import only_certain
from tactile_align.moments.inputs import Input, input_image, window
from tactile_align.moments.normalisation import Statistics
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.build import inputs_of, make_model, measure_of
from tactile_align.policies.checkpoint import load_validated, selected_checkpoint
from tactile_align.policies.observation import Needs, Observation, checked, checked_touches
from tactile_align.projection.episode_boxes import HeldOpening, ViewBoxes, hand_of, no_contact_image


class TemporalEnsembler:
    """Weighted mean of all predictions for a step, computed online (Zhao et al. 2023, section IV-B).

    The i-th prediction for a step, counted from the OLDEST, has the weight exp(-coefficient * i). A positive
    coefficient gives old predictions more weight; 0 gives the plain mean. A chunk must be predicted at every step.
    """

    def __init__(self, chunk_size: int, coefficient: float = 0.01) -> None:
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1; got {chunk_size}. Use the policy's chunk_size.")
        self.chunk_size, self.coefficient = chunk_size, coefficient
        self.reset()

    def reset(self) -> None:
        """Forget all predictions; call `reset` at the start of each episode."""
        self._mean: Tensor | None = None
        self._calls = 0

    def update(self, actions: Tensor) -> Tensor:
        """Add the chunk predicted at this step and return the action to execute now.

        Args:
            actions: (..., C, A) predicted chunk of C actions of A columns; row j is for j steps from now.

        Returns:
            (..., A) action, dtype and device of `actions`.

        Raises:
            ValueError: The chunk's length is not `chunk_size`, or its shape differs from that of the previous chunk.
        """
        c = self.chunk_size
        if actions.ndim < 2 or actions.shape[-2] != c:
            raise ValueError(
                f"actions must be a chunk of shape (..., {c}, A); got {tuple(actions.shape)}. "
                "Pass complete chunks, as the policy predicts them."
            )
        if self._mean is not None and self._mean.shape != actions.shape:
            raise ValueError(
                f"actions must have shape {tuple(self._mean.shape)}, like the previous chunk; got "
                f"{tuple(actions.shape)}. Call reset() between episodes."
            )
        mean = actions
        if self._mean is not None:
            # The number of earlier calls whose chunk included row j, at most C - 1 - j.
            before = torch.arange(c - 1, -1, -1, device=actions.device).clamp(max=self._calls)
            weights = torch.exp(-self.coefficient * torch.arange(c, device=actions.device, dtype=actions.dtype))
            share = (weights[before] / weights.cumsum(0)[before])[:, None]
            mean = self._mean + (actions - self._mean) * share
        self._calls = min(self._calls + 1, c - 1)
        # The new last row has no prediction yet. Its first prediction gets the full weight and replaces this 0.
        self._mean = torch.cat((mean[..., 1:, :], torch.zeros_like(mean[..., :1, :])), -2)
        return mean[..., 0, :]


class Policy:
    """Trained policy with its rig, its normalisation statistics and its state between steps.

    Args:
        model: Network with trained weights.
        config: Training config of the network.
        rig: Rig of the cell that the policy acts in.
        statistics: Normalisation statistics of the training episodes.
        sizes: (width, height) of each stream as recorded in the training episodes, px.
        ensemble: Coefficient of temporal ensembling. None: no ensembling; `act` returns chunks. Refused for the heads
            flow and diffusion.
        device: Device that the network runs on.
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
                "this run contains no policy, because it trained the alignment only. Train with train_policy = true"
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
        places = {name: rig.sensor(name) for name in self._watched}
        self._named = {
            name: (sensor.no_contact, sensor.stream)
            for name, sensor in places.items()
            if sensor.no_contact is not None and sensor.no_contact.file is not None
        }
        self._images: dict[str, np.ndarray] = {}  # references that were read from files
        self._watch: dict[str, ContactWatch] = {}  # made by `reset`, which may replace the references in files
        self.needs = self._needs(sizes)
        shape = model.act.config
        if (statistics.action_range is None) != (shape.head == "act"):
            raise InputError(
                f"policy.head = '{shape.head}' needs statistics {'without' if shape.head == 'act' else 'with'} "
                f"action_range; got the other kind, which scales differently. Use the statistics.json of the run"
            )
        if ensemble is not None and shape.head != "act":
            raise InputError(
                f"ensemble = {ensemble:g} averages over chunks, but chunks of policy.head = '{shape.head}' may be of "
                f"different ways, whose mean is not a way. Load the policy without ensemble, and execute several "
                f"actions of each chunk with policy.execute and `next_action`"
            )
        self._head = model.act
        self._execute = config.policy.execute
        self._queue: list[np.ndarray] = []
        self._past: dict[str, list[np.ndarray]] = {}  # touch images since `reset`, by input with a window
        self._random: torch.Generator | None = None  # made by `reset`
        self._ensembler = None if ensemble is None else TemporalEnsembler(shape.chunk_size, ensemble)

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
        """Return the policy of a run, with the weights that had the smallest held-out action error.

        With the heads flow and diffusion, they are those of the last step unless select_by = "action".

        Args:
            run: The run folder.
            ensemble: Coefficient of temporal ensembling (0.01 in the paper), with which `act` returns one action. None:
                no ensembling; `act` returns chunks.
            rig: Rig of the cell to act in; None uses the rig of the run.
            checkpoint: Checkpoint file to load. None: best_action.safetensors of the run, or its last checkpoint if the
                run has no best or if `TrainConfig.selection` is "last".
            device: Device that the network runs on.

        Raises:
            FactError, FileNotFoundError: The folder does not contain a complete run.
            ValueError: The run has no policy.
        """
        folder = Path(run)
        config = load_config(folder / "config.toml")
        statistics = Statistics.load(folder / "statistics.json")
        path = (
            Path(checkpoint)
            if checkpoint
            else selected_checkpoint(folder / "checkpoints", measure_of(config, "action"))
        )
        model = make_model(config, len(statistics.qpos_mean), len(statistics.action_mean), fill=False)
        state = load_validated(model, path)
        cell = rig if isinstance(rig, Rig) else load_rig(folder / "rig.toml" if rig is None else rig)
        sizes = {name: (int(width), int(height)) for name, (width, height) in state["sizes"].items()}
        return cls(model, config, cell, statistics, sizes, ensemble, device)

    @property
    def execute(self) -> int | None:
        """Number of actions of a chunk that `next_action` executes, from 1 to chunk_size; None: not stated.

        Raises:
            InputError: A new value lies outside this range.
        """
        return self._execute

    @execute.setter
    def execute(self, count: int | None) -> None:
        size = self.config.policy.chunk_size
        if count is not None and not 1 <= count <= size:
            raise InputError(
                f"execute must be at least 1 and at most chunk_size = {size}; got {count}. Set another number, or None"
            )
        self._execute = count

    def reset(self, free: Mapping[str, np.ndarray] | None = None, seed: int = 0) -> None:
        """Clear all state kept between steps; call `reset` at the start of each episode.

        Args:
            free: No-contact reference (H, W, 3) uint8 of each sensor. If a sensor has none, neither here nor as a file
                in the rig, its first image after the reset must show no contact. The references have two uses. Where
                the gripper reports commands, they serve to detect contact of any sensor of the hand. With
                features.touch_input = "difference", they are subtracted from the touch images.
            seed: Seed of the noise that the heads flow and diffusion turn into actions. Equal seeds and observations
                give equal actions.

        Raises:
            InputError: A sensor is unknown to the policy, a reference is not an RGB image (H, W, 3) uint8, or the file
                of a reference that is not given here cannot be read.
        """
        given = dict(free or {})
        if unknown := set(given) - set(self._watched):
            raise InputError(
                f"`free` contains sensors that this policy compares with no reference: {sorted(unknown)}. It compares "
                f"only: {', '.join(self._watched) or 'no sensor'}. Remove the other sensors from `free`"
            )
        for name, touch in given.items():
            if not isinstance(touch, np.ndarray) or touch.dtype != np.uint8 or touch.shape[2:] != (3,):
                came = f"{touch.dtype} {touch.shape}" if isinstance(touch, np.ndarray) else type(touch).__name__
                raise InputError(
                    f"free['{name}'] must be a touch image without contact, (H, W, 3) uint8 RGB; got {came}. Pass the "
                    f"touch image as recorded"
                )
        for name in self._named.keys() - given.keys() - self._images.keys():
            self._images[name] = no_contact_image(*self._named[name])
        self._watch = {name: ContactWatch(given.get(name, self._images.get(name))) for name in self._watched}
        for held in self._held.values():
            held.onset = None
        self._queue.clear()
        self._past = {entry.key: [] for entry in self.inputs if entry.earlier}
        self._random = torch.Generator().manual_seed(seed)
        if self._ensembler is not None:
            self._ensembler.reset()

    def next_action(self, observation: Mapping[str, Any]) -> np.ndarray:
        """Return the action (A,) to execute now, float64, robot units (receding horizon).

        The policy predicts a chunk, returns its first `execute` actions in the next calls, and predicts again. An
        observation is used only when a chunk is predicted, so a policy whose gripper reading is "commanded" notices a
        contact only then. Only a policy with a window of touches also uses the touches of the other calls, see
        `observe`.

        Args:
            observation: See `act`.

        Raises:
            InputError: `execute` is None, or the policy uses temporal ensembling.
            ValueError: The observation is used and is invalid; the policy's state is then unchanged.
        """
        if self.execute is None or self._ensembler is not None:
            raise InputError(
                f"next_action needs the number of actions that are executed of each chunk, and no ensembling; got "
                f"policy.execute = {self.execute}{' and ensemble' if self._ensembler else ''}. Set policy.execute in "
                f"the config of the run, or the attribute `execute`, and load the policy without ensemble"
            )
        if not self._queue:
            self._queue = list(self.act(observation)[: self.execute])
        elif self._past:
            self.observe(observation.get("touches"))
        return self._queue.pop(0)

    def observe(self, touches: Mapping[str, np.ndarray] | None) -> None:
        """Keep the touches of a step at which no chunk is predicted, for the window of touches.

        A policy with `FeatureConfig.touch_frames` above 1 must get the touches of every step of the recorded rate, in
        order, each by one call of `act`, `next_action` or `observe`. Before the first step after `reset`, the touches
        of that step take the place of the missing ones, as at the start of an episode in training. Without a window,
        nothing is kept.

        Args:
            touches: Touch image (height, width, 3) uint8 RGB as recorded, by stream.

        Raises:
            InputError: A touch is missing or invalid; the policy's state is then unchanged.
        """
        if self._random is None:
            self.reset()
        if self._past:
            frames = checked_touches(touches, self.needs)
            blank = Observation(np.zeros(0), frames, {}, {})
            images = {entry.key: self._image(entry, blank) for entry in self.inputs if entry.earlier}
            for entry in self.inputs:
                if entry.earlier:
                    self._window(entry, images[entry.key])

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """Return the action, or the chunk of actions, to execute from now on.

        Actions that `next_action` has not yet returned are dropped.

        Args:
            observation: Mapping that `policies.observation.checked` describes; `Policy.needs.text()` lists what this
                policy needs.

        Returns:
            Without ensembling, the chunk of C actions of A columns (C, A) from now on. With ensembling, the action (A,)
            to execute now. float64, robot units.

        Raises:
            ValueError: The observation is invalid; the policy's state is then unchanged.
        """
        watches = {name: copy(watch) for name, watch in self._watch.items()}
        onsets = [(held, held.onset) for held in self._held.values()]
        started, past = self._random, {key: list(images) for key, images in self._past.items()}
        try:
            batch = self.batch(checked(observation, self.needs))
        except ValueError:
            self._watch, self._random, self._past = watches, started, past
            for held, onset in onsets:
                held.onset = onset
            raise
        self._queue = []
        noise = self._head.noise(1, self._random) if self._random else None
        predicted = self.model.predict(batch, self.model.see(batch, alignment=False), noise)
        actions = self.statistics.restore_action(predicted[0].double().cpu())
        return np.asarray(actions if self._ensembler is None else self._ensembler.update(actions))

    def batch(self, observation: Observation) -> ObservationBatch:
        """Return a batch of one moment, made exactly as in training.

        Each call is one step: the policy updates the gripper openings that it holds since the start of a contact, and
        the window of touches.
        """
        if self._random is None:
            self.reset()
        contact = {name: self._touches(name, observation) for name in self._holding}
        openings = {arm: held.step(observation.qpos, contact) for arm, held in self._held.items()}
        views: dict[str, ViewBatch] = {}
        touches: dict[str, TouchImages] = {}
        frames: dict[str, Tensor] = {}
        for entry in self.inputs:
            if entry.sensor is not None and self.views:
                views[entry.key] = self._view(
                    entry, entry.sensor, observation, openings.get(hand_of(self.rig, entry.sensor))
                )
                continue
            image = self._image(entry, observation)
            if entry.sensor is not None:
                nowhere = torch.full((1, 4), torch.nan)
                views[entry.key] = ViewBatch(image=_row(image), box=nowhere, visible=torch.tensor([False]))
            elif entry.key in self.model.sensors:
                touches[entry.key] = TouchImages(image=_row(self._window(entry, image)))
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

    def _window(self, entry: Input, image: np.ndarray) -> np.ndarray:
        past = self._past.get(entry.key, [])
        past.append(image)
        del past[: -1 - max(entry.earlier, default=0)]
        return window(entry, past.__getitem__, len(past) - 1)

    def _image(self, entry: Input, observation: Observation) -> np.ndarray:
        frame = observation.frames[entry.stream]
        scaled = entry.image_map(frame.shape[1], frame.shape[0]).apply_to_image
        return input_image(entry, scaled(frame), lambda: scaled(self._reference(entry.key, frame, observation)))

    def _reference(self, sensor: str, touch: np.ndarray, observation: Observation) -> np.ndarray:
        watch = self._watch[sensor]
        if watch.free is None and observation.contact.get(sensor, False):
            raise InputError(
                f"the first touch of '{sensor}' after reset() is stated to be in contact, but this policy needs a "
                f"touch without contact as the reference. Pass a reference: reset(free={{'{sensor}': touch}})"
            )
        return watch.against(touch)

    def _touches(self, sensor: str, observation: Observation) -> bool:
        stated = observation.contact.get(sensor)
        return (
            self._watch[sensor].update(observation.frames[self.rig.sensor(sensor).stream]) if stated is None else stated
        )

    def _uses(self, entry: Input) -> bool:
        if entry.sensor is not None:
            return bool(self.views) or entry.key in self.model.frame_keys.values()
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
            columns=self.statistics.columns,
            steps=1 + max((age for entry in self.inputs for age in entry.earlier), default=0),
        )


def _row(values: np.ndarray) -> Tensor:
    """Return an array as a tensor with a batch axis of length 1."""
    return torch.from_numpy(np.ascontiguousarray(values))[None]
