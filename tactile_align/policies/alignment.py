"""Alignment of touch and vision: towers, loss, temperature and additional negatives, with the values to log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.config.features import FeatureConfig
from tactile_align.config.hsa import HSAConfig
from tactile_align.errors import InputError
from tactile_align.features.towers import Features, OpeningRegion, Towers, shifted_boxes
from tactile_align.losses.bank import Following, MemoryBank
from tactile_align.losses.build import loss_of, negatives_of, temperature_of
from tactile_align.losses.gather import gather_facts, world
from tactile_align.losses.hsa import HSAStats, Keys
from tactile_align.losses.negatives import PATTERN, Facts, Negatives, permuted_rows, touch_pattern
from tactile_align.losses.row_chunks import spans
from tactile_align.moments.batch import MomentBatch, ObservationBatch, camera_key, required


@dataclass(frozen=True)
class View:
    """View: a pair of a camera and a touch sensor, whose box in the camera's images is computed.

    Attributes:
        key: Key of the view in a batch; CAMERA-SENSOR unless the config names the view.
        camera: Name of the camera stream.
        sensor: Name of the sensor.
        weight: Weight of the view in the alignment loss.
        zoomed: Whether the images are crops around the box instead of whole frames.
    """

    key: str
    camera: str
    sensor: str
    weight: float
    zoomed: bool = False


def frame_keys(views: Sequence[View]) -> dict[str, str]:
    """Return the key of the image that shows a camera's whole frame, by camera.

    The image is that of the camera's first view that is not zoomed. Where all views of a camera are crops, the whole
    frame is an additional input with the key `camera_key(camera)`.
    """
    keys = {view.camera: camera_key(view.camera) for view in views}
    return keys | {view.camera: view.key for view in reversed(views) if not view.zoomed}


@dataclass(frozen=True)
class BatchFeatures:
    """Features of a batch.

    Attributes:
        regions: Feature h_w and tokens of the image region, by view key.
        touches: Feature h_tau and tokens of the touch image, by sensor.
        frames: (B, K, D) K tokens of the whole frame in each of B moments, each of length D, by camera.
        beside: Features of additional regions in the images, by view key; for `Alignment.region_negatives`.
        second: (B, dim) feature of the image region in `MomentBatch.second_views`, by view key.
    """

    regions: dict[str, Features] = field(default_factory=dict)
    touches: dict[str, Features] = field(default_factory=dict)
    frames: dict[str, Tensor] = field(default_factory=dict)
    beside: dict[str, "Beside"] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)


class RegionNegatives(NamedTuple):
    """Features of N additional image regions that are negatives of each touch of a view, for `hsa_loss`.

    Attributes:
        features: (B, N, dim) features of the N regions of each of B touches.
        exist: (B, N) bool, whether each region exists in the image.
        kinds: N names, the kind of each region. beside: a region next to the sensor's box. finger: the box of the other
            finger. camera: a region in the image of another camera.
    """

    features: Tensor
    exist: Tensor
    kinds: tuple[str, ...]

    def counts(self, valid: Tensor) -> dict[str, Tensor]:
        """Return the number of region negatives by kind, summed over the touches where `valid` (B,) is True."""
        counts: dict[str, Tensor] = {}
        for kind, count in zip(self.kinds, (self.exist & valid[:, None]).sum(dim=0), strict=True):
            counts[kind] = counts.get(kind, 0) + count
        return counts


class CopyFeatures(NamedTuple):
    """Features of a batch from the momentum copy of the towers (`Memory.towers`), the candidates of the loss.

    Attributes:
        features: Features of the regions and touches.
        others: Features of the additional image regions that are negatives, by view key.
    """

    features: BatchFeatures
    others: dict[str, RegionNegatives]


class Beside(NamedTuple):
    """Features of additional regions in the images of one view, which serve as negatives.

    Attributes:
        shifted: (B, P, dim) features of P boxes next to the sensor's box, of the same size, in each of B images.
        exist: (B, P) bool, which of these boxes lie in the image.
        finger: (B, dim) feature of the other finger's box; None where it is not used.
    """

    shifted: Tensor
    exist: Tensor
    finger: Tensor | None


class Alignment(nn.Module):
    """Vision and touch towers with the loss that aligns them, its temperature and a memory of past pairs.

    The config's `pairs` states what the loss compares. permuted: in training mode, each touch is compared with the
    region of another moment of the same forward pass. two_crops: two augmentations of each region are compared.

    In training mode, the loss compares each moment with the moments of all processes. In eval mode, all processes have
    the same moments, so the loss uses those of its own process only.

    Args:
        features: Config of the towers.
        hsa: Config of the alignment loss.
        views: The (camera, sensor) pairs, at least one.
        region: What the loss compares with a touch. box: the image region of the sensor's box. opening: the gripper's
            opening, which is the baseline.
        fill: Whether to read pretrained weights; False is for models whose checkpoint is loaded right after.
    """

    def __init__(
        self,
        features: FeatureConfig,
        hsa: HSAConfig,
        views: tuple[View, ...],
        region: Literal["box", "opening"] = "box",
        fill: bool = True,
    ) -> None:
        super().__init__()
        self.hsa, self.views = hsa, views
        self.sensors = tuple(dict.fromkeys(view.sensor for view in views))
        self.towers = Towers(features, fill)
        self.loss, self.loss_alone = loss_of(hsa, gather=True), loss_of(hsa)
        self.temperature = temperature_of(hsa)
        self.opening_region = OpeningRegion(features.dim) if region == "opening" else None
        remembers = hsa.weight > 0 and hsa.bank > 0 and region == "box"
        self.memory = Memory(hsa, self.towers, len(views)) if remembers else None

    def freeze_unread(self, vision: bool, touch: bool) -> None:
        """Freeze what gets no gradient without the alignment loss: temperature, heads, and towers that no policy uses.

        Args:
            vision: Whether a policy uses tokens of the vision tower.
            touch: Whether a policy uses tokens of the touch tower.
        """
        self.temperature.requires_grad_(False)
        for name, part in self.towers.named_children():
            if name not in ("vision", "touch", "touch_over_time"):
                part.requires_grad_(False)
        if self.towers.touch_over_time is not None:
            self.towers.touch_over_time.requires_grad_(touch)
        if self.towers.vision is not self.towers.touch:
            for tower, read in ((self.towers.vision, vision), (self.towers.touch, touch)):
                if not read:
                    tower.requires_grad_(False)

    def freeze_touch(self, tower: bool) -> None:
        """Freeze what gets no gradient if the loss compares two crops: touch pooling, touch head and maybe the tower.

        Args:
            tower: Whether to freeze the touch tower, too. A tower that also encodes camera images is never frozen.
        """
        towers = self.towers
        alone = tower and towers.touch is not towers.vision
        pooled = towers.touch_over_time if tower else None
        touch = towers.touch if alone else None
        for part in (towers.touch_attention, towers.touch_head, towers.touch_mlp, pooled, touch):
            if part is not None:
                part.requires_grad_(False)

    def compares_touches(self, batch: ObservationBatch) -> bool:
        """Return whether the loss of a batch compares touches; otherwise it compares two crops of each region."""
        return not (isinstance(batch, MomentBatch) and batch.second_views)

    def at_step(self, step: int) -> None:
        """Set the training step for the temperature schedule; one step may include several forward passes."""
        if self.temperature.final is not None:
            self.temperature.step.fill_(step)

    def see(
        self,
        batch: ObservationBatch,
        regions: bool = True,
        touches: bool = True,
        frames: Mapping[str, str] | None = None,
        beside: bool = True,
        towers: Towers | None = None,
    ) -> BatchFeatures:
        """Return the features of a batch; each tower runs once over all its images, and once over the second views.

        Args:
            batch: The moments.
            regions: Whether to compute the features of the regions.
            touches: Whether to compute the features of the touches.
            frames: Key of the image that shows the whole frame, by camera, for cameras whose frames are encoded.
            beside: Whether to compute the features of the additional regions that the config uses as negatives, and
                those of the second views.
            towers: Towers that compute the features, such as a copy of the model's; None: the model's towers.
        """
        towers, frames = towers or self.towers, frames or {}
        encoded = BatchFeatures()
        if touches:
            images = torch.cat([batch.touches[sensor].image for sensor in self.sensors])
            encoded.touches.update(_split(towers.of_touch(images), self.sensors))
        if regions and self.opening_region is not None:
            for view in self.views:
                vector = self.opening_region(required(batch.touches[view.sensor].opening, f"opening/{view.sensor}"))
                encoded.regions[view.key] = Features(vector, vector[:0, None])
        regions = regions and self.opening_region is None
        keys = list(dict.fromkeys([*(view.key for view in self.views if regions), *frames.values()]))
        if not keys:
            return encoded
        shown = batch.images()
        every = towers.vision.tokens(torch.cat([shown[key] for key in keys]))
        tokens = dict(zip(keys, every.chunk(len(keys)), strict=True))
        encoded.frames.update({camera: towers.of_frame(tokens[key]) for camera, key in frames.items()})
        for view in self.views if regions else ():
            sigma = self.sigma(batch, view)
            encoded.regions[view.key] = towers.at_box(tokens[view.key], self.finite_box(batch, view), sigma)
            if beside and self.hsa.looks_beside:
                encoded.beside[view.key] = self._beside(batch, view, towers, tokens[view.key])
        if regions and beside and isinstance(batch, MomentBatch) and batch.second_views:
            again = replace(batch, views=batch.second_views, second_views={})
            second = self.see(again, touches=False, beside=False, towers=towers).regions
            encoded.second.update({key: features.vector for key, features in second.items()})
        return encoded

    def finite_box(self, batch: ObservationBatch, view: View) -> Tensor:
        """Return a view's boxes (B, 4), px; a moment without a box gets the whole image and is never a valid pair."""
        width, height = self.towers.vision.input_size
        part = batch.views[view.key]
        whole = part.box.new_tensor([-0.5, -0.5, width - 0.5, height - 0.5])
        return torch.where(part.visible[:, None], part.box, whole)

    def sigma(self, batch: ObservationBatch, view: View) -> Tensor | None:
        """Return the standard deviations (B, 2) of the box positions in a view, px; a moment without a box gets 1.

        The result is None where the config sets one fixed standard deviation.
        """
        part = batch.views[view.key]
        if self.towers.config.sigma_px != "rig" or part.sigma is None:
            return None
        return torch.where(part.visible[:, None], part.sigma, torch.ones_like(part.sigma))

    def valid_pairs(self, batch: MomentBatch, view: View) -> Tensor:
        """Return (B,) bool, which of the B moments have a box and, if hsa.require_contact is set, a contact.

        A moment with a second view needs the box in both views.
        """
        valid = batch.views[view.key].visible
        if batch.second_views:
            valid = valid & batch.second_views[view.key].visible
        return valid & batch.touches[view.sensor].contact if self.hsa.require_contact else valid

    def counts(self, batch: MomentBatch) -> dict[str, Tensor]:
        """Return the number of valid pairs of each view, under the key pairs/VIEW."""
        return {f"pairs/{view.key}": self.valid_pairs(batch, view).sum() for view in self.views}

    @torch.no_grad()
    def copied(self, batch: MomentBatch) -> CopyFeatures | None:
        """Return the features of a batch from `Memory.towers`, or None without a memory or in eval mode."""
        if self.memory is None or not self.training:
            return None
        features = self.see(batch, touches=self.compares_touches(batch), towers=self.memory.towers)
        return CopyFeatures(features, self.region_negatives(batch, features))

    def forward(
        self,
        batch: MomentBatch,
        features: BatchFeatures,
        totals: Mapping[str, Tensor] | None = None,
        copied: CopyFeatures | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the HSA losses of the views, and the values to log.

        Args:
            batch: The moments.
            features: Features of the batch.
            totals: `counts` of the complete step, if the batch is only a part of that step. The loss is then the share
                of this part in the loss of the step.
            copied: Result of `Alignment.copied` for the batch, which the caller also passes to `Alignment.remember`.
                None: computed here if the model has a memory.
        """
        copied = self.copied(batch) if copied is None else copied
        total = batch.qpos.new_zeros(())
        log: dict[str, Tensor] = {}
        kappa = self.temperature()
        others = self.region_negatives(batch, features) if copied is None else copied.others
        for number, view in enumerate(self.views):
            other = others.get(view.key)
            pairs = self.valid_pairs(batch, view)
            moved = self._moved(batch, pairs)
            tau, w = self._compared(features, view), features.regions[view.key].vector
            past = None if self.memory is None or copied is None else self.memory.bank(number)
            keys = None
            if copied is not None and past is not None:
                seen = copied.features
                keys = Keys(self._compared(seen, view), seen.regions[view.key].vector, *past.kept())
            negatives, usable = self.negatives(batch, view, past, moved), pairs
            if moved is not None:
                tau, usable = tau[moved], pairs & negatives.unrelated()
                keys = None if keys is None else keys._replace(touches=keys.touches[moved])
            loss, stats, valid = self.contrast(tau, w, negatives, usable, kappa, other, keys)
            whole = stats.pairs if totals is None else totals[f"pairs/{view.key}"]
            share = stats.pairs / whole.clamp(min=1) if totals is not None else 1.0
            total = total + view.weight * share * loss
            hits, from_bank = first_hits(tau, w, negatives, valid)
            counts = {} if other is None else other.counts(valid)
            if past is not None:
                counts["bank"] = from_bank
            everyone, first = self._everyone(negatives)
            excluded = everyone.excluded(first, first + len(batch))
            values = {
                "hsa": share * loss.detach(),
                "chance": share * stats.chance,
                "negatives": share * stats.negatives,
                "r1": hits / whole.clamp(min=1),
                "pairs": stats.pairs,
                "no_negative": (usable & ~valid).sum(),
                "no_box": (~batch.views[view.key].visible).sum(),
            }
            if moved is not None:
                values["no_partner"] = (pairs & ~usable).sum()
            if keys is not None:
                values["bank_share"] = share * stats.bank_share
            values |= {f"negatives_from/{kind}": count / whole.clamp(min=1) for kind, count in counts.items()}
            values |= {f"excluded/{rule}": count for rule, count in excluded.items()}
            log |= {f"{name}/{view.key}": value for name, value in values.items()}
        log["no_contact"] = torch.stack([(~batch.touches[name].contact).sum() for name in self.sensors]).sum()
        log["temperature"] = kappa.detach()
        return total, log

    def contrast(
        self,
        h_tau: Tensor,
        h_w: Tensor,
        negatives: Negatives,
        pairs: Tensor,
        kappa: Tensor,
        other: RegionNegatives | None = None,
        keys: Keys | None = None,
    ) -> tuple[Tensor, HSAStats, Tensor]:
        """Return the loss of one view, its statistics, and (B,) bool, which of the B pairs had a negative.

        Args:
            h_tau: (B, dim) touch features, or features of the second crops of the regions.
            h_w: (B, dim) region features.
            negatives: Rules that decide which moments are negatives of each other.
            pairs: (B,) bool, which moments are valid pairs.
            kappa: Temperature of the loss.
            other: Additional regions of the same moments, as negatives.
            keys: Features of the batch from the momentum copy of the towers (`Memory.towers`), and features of past
                pairs, as negatives.
        """
        valid = pairs & self._with_negatives(negatives, pairs, other)
        loss, stats = (self.loss if self.training else self.loss_alone)(
            h_tau,
            h_w,
            None if other is None else other.features,
            negatives,
            temperature=kappa,
            valid=valid,
            stats=True,
            keys=keys,
            hard_valid=None if other is None else other.exist,
        )
        assert isinstance(stats, HSAStats)
        return loss, stats, valid

    def _compared(self, features: BatchFeatures, view: View) -> Tensor:
        """Return the features (B, dim) that the loss compares with those of the regions of a view."""
        if self.hsa.pairs != "two_crops":
            return features.touches[view.sensor].vector
        return required(features.second.get(view.key), f"second_views/{view.key}")

    def _moved(self, batch: MomentBatch, pairs: Tensor) -> Tensor | None:
        """Return (B,) the row whose touch is compared with each region, or None for the touch of the same row."""
        if self.hsa.pairs != "permuted" or not self.training:
            return None
        return permuted_rows(required(batch.order, "order"), pairs)

    def negatives(
        self, batch: MomentBatch, view: View, past: MemoryBank | None = None, touch_row: Tensor | None = None
    ) -> Negatives:
        """Return the rules that decide which moments of a batch and of the memory are negatives of each other.

        `touch_row` (B,) is the row whose touch is compared with the region of each row; see `Negatives`.
        """
        touch = None if self.hsa.touch_ceiling is None else touch_pattern(batch.touches[view.sensor].present)
        bank = None if past is None else past.facts()
        index = batch.touches[view.sensor].contact_index
        facts = (batch.episode, batch.time, touch, index, bank)
        return negatives_of(self.hsa, *facts, gather=self.training, touch_row=touch_row)

    def _everyone(self, negatives: Negatives) -> tuple[Negatives, int]:
        """Return the rules over all rows that the loss compares, and the index of this process's first row in them."""
        if not self.training:
            return negatives, 0
        return negatives.gathered(), world()[0] * len(negatives.episode)

    @torch.no_grad()
    def _with_negatives(self, negatives: Negatives, pairs: Tensor, other: RegionNegatives | None) -> Tensor:
        """Return (B,) bool, which of the B rows (touch-region pairs) have a negative.

        A negative may be a valid pair of any process, an entry of the memory bank or, for a touch, an additional
        region. A symmetric loss also needs a negative for the region of the row. A batch from real episodes may contain
        a single contact. The pair of that contact has no negative: its loss is 0 for any features, and the mean over
        the pairs includes this 0.

        Raises:
            InputError: A training batch has a single moment, so no pair would ever have a negative.
        """
        if self.hsa.kind == "mse":
            return torch.ones_like(pairs)
        everyone, first = self._everyone(negatives)
        partners = gather_facts(pairs) if self.training else pairs
        beside = other is not None and not self.hsa.symmetric
        if len(partners) < 2 and not beside and self.memory is None and self.training:
            raise InputError(
                "the batch contains a single moment, but the alignment loss requires negatives, so a batch needs at "
                "least 2 moments, preferably 32. Raise batch_size, or lower optimiser.accumulate"
            )
        contrasted = torch.zeros_like(pairs)
        if other is not None and beside:
            contrasted = other.exist.any(dim=1)
        for start, stop in spans(len(pairs), len(partners), None):
            negative = everyone.rows(first + start, first + stop)
            negative[:, : len(partners)] &= partners
            contrasted[start:stop] |= negative.any(dim=1)
        return contrasted

    def region_negatives(self, batch: MomentBatch, features: BatchFeatures) -> dict[str, RegionNegatives]:
        """Return the additional regions that the config uses as negatives, by view key; empty if it uses none."""
        if self.opening_region is not None or not self.hsa.looks_beside:
            return {}
        return {view.key: self._of_view(batch, features, view) for view in self.views}

    def _beside(self, batch: ObservationBatch, view: View, towers: Towers, tokens: Tensor) -> Beside:
        hsa, part = self.hsa, batch.views[view.key]
        box = self.finite_box(batch, view)
        wanted = any(other.sensor == view.sensor and other.camera != view.camera for other in self.views)
        count = max(hsa.region_negatives, int(hsa.camera_negative and wanted))
        moved, exist = shifted_boxes(box, count, towers.vision.input_size)
        places = [moved] if count else []
        if hsa.finger_negative:
            there = required(part.other_box, f"other_box/{view.key}")
            places.append(torch.where(self.finger_in_sight(batch, view)[:, None], there, box)[:, None])
        if not places:
            return Beside(box.new_zeros((len(box), 0, towers.config.dim)), exist, None)
        vectors = towers.at_boxes(tokens, torch.cat(places, dim=1), self.sigma(batch, view))
        return Beside(vectors[:, :count], exist, vectors[:, count] if hsa.finger_negative else None)

    def finger_in_sight(self, batch: ObservationBatch, view: View) -> Tensor:
        """Return (B,) bool, in which of the B moments the other finger's box is a separate region.

        The centre of that box must lie in the encoder's image and outside the sensor's box, because fingers that are
        closed on a thin object overlap in the image.
        """
        part = batch.views[view.key]
        box, other = part.box, required(part.other_box, f"other_box/{view.key}")
        centre = (other[:, :2] + other[:, 2:]) / 2
        border = other.new_tensor(self.towers.vision.input_size) - 0.5
        in_image = ((centre >= -0.5) & (centre <= border)).all(dim=1)
        in_box = ((centre >= box[:, :2]) & (centre <= box[:, 2:])).all(dim=1)
        return in_image & ~in_box & part.visible

    def _of_view(self, batch: MomentBatch, features: BatchFeatures, view: View) -> RegionNegatives:
        beside, wanted = features.beside, self.hsa.region_negatives
        own = beside[view.key]
        columns = [("beside", own.shifted[:, i], own.exist[:, i]) for i in range(wanted)]
        if own.finger is not None:
            columns.append(("finger", own.finger, self.finger_in_sight(batch, view)))
        for other in self.views if self.hsa.camera_negative else ():
            if other.camera == view.camera:
                continue
            # The box of the same sensor in another camera shows this touch; a region beside that box is the negative.
            same = other.sensor == view.sensor
            there = beside[other.key].shifted[:, 0] if same else features.regions[other.key].vector
            in_sight = batch.views[other.key].visible
            columns.append(("camera", there, in_sight & beside[other.key].exist[:, 0] if same else in_sight))
        kinds, vectors, exist = zip(*columns, strict=True)
        return RegionNegatives(torch.stack(vectors, dim=1), torch.stack(exist, dim=1), kinds)

    @torch.no_grad()
    def remember(self, seen: Sequence[tuple[MomentBatch, CopyFeatures]]) -> None:
        """Update the memory after a step: add the pairs of all processes, and update the copy of the towers.

        Args:
            seen: Micro-batches of the step, each with the features that the copy computed for the loss (`copied`).
        """
        if self.memory is None:
            return
        for batch, copied in seen:
            for number, view in enumerate(self.views):
                touch = batch.touches[view.sensor]
                pattern = None if self.hsa.touch_ceiling is None else gather_facts(touch_pattern(touch.present))
                episode, time, index = map(gather_facts, (batch.episode, batch.time, touch.contact_index))
                valid = gather_facts(self.valid_pairs(batch, view) & touch.contact)
                touches = gather_facts(self._compared(copied.features, view))
                regions = gather_facts(copied.features.regions[view.key].vector)
                facts = Facts(episode, time, touch=pattern, contact_index=index)
                self.memory.bank(number).add(touches, regions, facts, valid)
        self.memory.following.follow(self.towers)


@torch.no_grad()
def first_hits(tau: Tensor, w: Tensor, negatives: Negatives, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return two counts over the valid touches: retrieval hits in the batch, and negatives in the memory bank.

    A touch is a hit if its own region is more similar to it than all of its negatives in the batch.

    Args:
        tau: (B, dim) features of the B touches.
        w: (B, dim) features of their regions.
        negatives: Rule that decides which regions are negatives of each touch.
        valid: (B,) bool, which pairs are valid.
    """
    touch, region = F.normalize(tau.float(), dim=-1), F.normalize(w.float(), dim=-1)
    hits = past = torch.zeros((), dtype=torch.int64, device=tau.device)
    for start, stop in spans(len(tau), len(tau), None):
        with torch.autocast(tau.device.type, enabled=False):  # bfloat16 would round away differences of 0.4 %
            near = touch[start:stop] @ region.T
        here = valid[start:stop]
        negative = negatives.rows(start, stop) & here[:, None]
        best = near.masked_fill(~(negative[:, : len(tau)] & valid), -torch.inf).amax(dim=1)
        hits = hits + ((near.diagonal(start) > best) & here).sum()
        past = past + negative[:, len(tau) :].sum()
    return hits, past


class Memory(nn.Module):
    """Memory of past pairs of each view as additional negatives, encoded by a momentum copy of the towers.

    The momentum copy is a second set of towers, whose weights follow those of the model slowly.
    """

    def __init__(self, hsa: HSAConfig, towers: Towers, views: int) -> None:
        super().__init__()
        touch = 0 if hsa.touch_ceiling is None else 3 * PATTERN**2
        self.banks = nn.ModuleList(MemoryBank(hsa.bank, towers.config.dim, touch) for _ in range(views))
        self.following = Following(towers, hsa.bank_momentum)

    @property
    def towers(self) -> Towers:
        """The momentum copy of the towers."""
        copy = self.following.module
        assert isinstance(copy, Towers)
        return copy

    def bank(self, view: int) -> MemoryBank:
        """Return the memory bank of the view with index `view`."""
        bank = self.banks[view]
        assert isinstance(bank, MemoryBank)
        return bank


def _split(features: Features, names: Sequence[str]) -> dict[str, Features]:
    """Return the features of each of the sources `names`, from the features of their concatenated rows."""
    vectors, tokens = features.vector.chunk(len(names)), features.tokens.chunk(len(names))
    return {name: Features(v, t) for name, v, t in zip(names, vectors, tokens, strict=True)}
