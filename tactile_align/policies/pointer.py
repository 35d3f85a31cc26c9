"""Contact pointer: where a touch sensor will touch next, as a place in the present image, and whether it is done."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.config.pointer import PointerOptions
from tactile_align.moments.batch import AheadBatch

OCTAVES = 8
SINES = 4 * OCTAVES
"""Number of sines and cosines that describe a place: 8 octaves for each of u and v."""
BETA = 0.25
"""Error of an offset, in tokens, at which the smooth L1 loss turns from a square into an absolute error."""


class PointerOutput(NamedTuple):
    """Next K contacts in B images, the nearest first.

    Attributes:
        points: (B, K, 2) places of the contacts, px of the image that the vision encoder gets.
        done: (B, K) probability that there is no such contact within the horizon.
        says_done: (B, K) bool, whether the pointer decides that there is none. The decision is balanced: it counts the
            entries with a contact as much as those without, so a rare class is also decided below a probability of 0.5.
    """

    points: Tensor
    done: Tensor
    says_done: Tensor


class PointerMaps(NamedTuple):
    """What the pointer computes for B images of R x C tokens: the input of its losses and of its predictions.

    Attributes:
        logits: (B, K, R, C) map of each of K contacts; softmax over the tokens gives the probability of its place.
        offsets: (B, R, C, 2) place of a contact within each token, relative to the token's centre, in tokens.
        done: (B, K) balanced logit that there is no such contact: as if both classes were equally frequent. The pointer
            decides that there is none where it is above 0.
    """

    logits: Tensor
    offsets: Tensor
    done: Tensor


class Pointer(nn.Module):
    """Head on the tokens of the vision encoder that points at the next contacts of a view's sensor, one by one.

    A query for each contact is compared with all tokens of the whole frame. At test time, the best token and its offset
    are the place of the contact. No output is squashed or clamped.

    Args:
        options: Options of the pointer.
        state_dim: Number of columns of qpos.
        token_width: Length of a token of the vision encoder.
        touch_width: Length of a token of the touch encoder.
        grid: (R, C) rows and columns of the tokens.
        input_size: (width, height) of the encoder's image, px.

    Attributes:
        mean_map: (V, K, R, C) mean target of the training split, by view and contact, for the chance line of the map.
        done_rate: (V, K) share of the training split's moments in which there is no such contact.
        done_odds: (V,) number of entries with a contact divided by that of entries without, over all K.
    """

    mean_map: Tensor
    done_rate: Tensor
    done_odds: Tensor
    sides: Tensor
    centres: Tensor

    def __init__(
        self,
        options: PointerOptions,
        state_dim: int,
        token_width: int,
        touch_width: int,
        grid: tuple[int, int],
        input_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.options, self.grid, self.input_size, width = options, grid, input_size, options.width
        views, most = len(options.views), options.most
        self.norm = nn.LayerNorm(token_width)
        self.key = nn.Linear(token_width + SINES, width)
        self.offset = mlp(token_width, width, 2)
        self.slots = nn.Parameter(0.02 * torch.randn(views, most, width))
        read = state_dim + width + SINES * options.history + touch_width * options.touch
        self.query = mlp(read, width, width)
        self.nothing = nn.Parameter(0.02 * torch.randn(SINES)) if options.history else None
        self.memory = nn.GRUCell(token_width, width) if options.memory else None
        self.recall = nn.Linear(width, width) if options.memory else None
        self.done = mlp(width + 2, width, 1)
        rows, columns = grid
        self.register_buffer("mean_map", torch.full((views, most, rows, columns), 1 / (rows * columns)))
        self.register_buffer("done_rate", torch.full((views, most), 0.5))
        self.register_buffer("done_odds", torch.ones(views))
        sides = torch.tensor([input_size[0] / columns, input_size[1] / rows])
        self.register_buffer("sides", sides, persistent=False)  # px of a token
        v, u = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        self.register_buffer("centres", torch.stack([u, v], dim=-1).flatten(0, 1) + 0.5, persistent=False)

    def forward(
        self, tokens: Tensor, state: Tensor, view: int, touch: Tensor | None = None, truth: Tensor | None = None
    ) -> PointerMaps:
        """Return the maps, offsets and logits of done of B images.

        Args:
            tokens: (B, R, C, D) tokens of the whole frames.
            state: (B, S) normalised qpos.
            view: Index of the view in the options.
            touch: (B, touch_width) mean token of the sensor's touch image; only with options.touch.
            truth: (B, K, 2) true places, px, nan where unknown, which history and memory then get as the earlier places
                (teacher forcing), in training mode with noise. None: they get the pointer's own earlier places.
        """
        seen = self.norm(tokens).flatten(1, 2)
        places = sines(self.centres / self.centres.new_tensor(self.grid[::-1]))
        keys = self.key(torch.cat([seen, places.expand(len(seen), -1, -1)], dim=-1))
        offsets = self.offset(seen)
        maps, dones = [], []
        before = state.new_full((len(state), 2), torch.nan)
        memory = state.new_zeros(len(state), self.options.width)
        for k in range(self.options.most):
            parts = [state, self.slots[view, k].expand(len(state), -1)]
            if self.nothing is not None:
                known = before.isfinite().all(dim=1, keepdim=True)
                parts.append(torch.where(known, sines(self.share(before.nan_to_num())), self.nothing))
            if self.options.touch:
                assert touch is not None
                parts.append(touch)
            query = self.query(torch.cat(parts, dim=1))
            if self.recall is not None:
                query = query + self.recall(memory)
            logits = (keys @ query[:, :, None])[..., 0] / math.sqrt(self.options.width)
            best = logits.amax(dim=1, keepdim=True)
            done = self.done(torch.cat([query, best, logits.logsumexp(dim=1, keepdim=True)], dim=1))[:, 0]
            maps.append(logits)
            dones.append(done)
            if truth is None:
                cell = logits.argmax(dim=1)
                before = torch.where(done[:, None] > 0, torch.nan, self._points(cell, offsets).detach())
            else:
                cell, before = self.cells(truth[:, k]), truth[:, k]
                if self.training and self.options.history:
                    before = before + self.options.history_noise_px * torch.randn_like(before)
            if self.memory is not None:
                new = self.memory(seen[torch.arange(len(seen), device=seen.device), cell], memory)
                memory = torch.where(before.isfinite().all(dim=1, keepdim=True), new, memory)
        shape = (len(tokens), self.options.most, *self.grid)
        return PointerMaps(
            torch.stack(maps, dim=1).view(shape), offsets.view(len(tokens), *self.grid, 2), torch.stack(dones, dim=1)
        )

    def output(self, maps: PointerMaps, view: int) -> PointerOutput:
        """Return the places of the contacts, at the best token of each map, and the probabilities of done.

        Args:
            maps: Result of `forward` for B images.
            view: Index of the view in the options, whose class weight of the loss is taken out of the probabilities.
        """
        cells = maps.logits.flatten(2).argmax(dim=2)
        probability = (maps.done - self.done_odds[view].log()).sigmoid()
        return PointerOutput(self._points(cells, maps.offsets.flatten(1, 2)), probability, maps.done > 0)

    def cells(self, points: Tensor) -> Tensor:
        """Return the index of the token that contains each point (..., 2), px of the image; 0 for a nan."""
        rows, columns = self.grid
        at = (self._in_tokens(points.nan_to_num(-0.5))).long()  # the border of the image belongs to the last token
        return at[..., 1].clamp(max=rows - 1) * columns + at[..., 0].clamp(max=columns - 1)

    def targets(self, points: Tensor) -> Tensor:
        """Return the target maps (..., R, C) of points (..., 2), px: Gaussians of sigma_tokens that sum to 1."""
        apart = self.centres - self._in_tokens(points.nan_to_num())[..., None, :]
        near = -apart.square().sum(dim=-1) / (2 * self.options.sigma_tokens**2)
        return near.softmax(dim=-1).unflatten(-1, self.grid)

    @torch.no_grad()
    def set_rates(self, view: int, split: AheadBatch) -> None:
        """Set the rates of a view from all N moments of the training split, with `points` in px of the encoder's image.

        One flat map, and one entry of each class of done, are added, so that no chance is infinite. All moments count
        alike, as in batches with contact_share = "natural"; other batches have other rates.
        """
        rows, columns = self.grid
        for k in range(self.options.most):
            points = split.points[:, k][split.known[:, k]]
            total = sum((self.targets(part).sum(dim=0) for part in points.split(4096)), torch.zeros(rows, columns))
            self.mean_map[view, k] = (total + 1 / (rows * columns)) / (len(points) + 1)
        counted, done = split.done_known.sum(dim=0), (split.done & split.done_known).sum(dim=0)
        self.done_rate[view] = (done + 1) / (counted + 2)
        self.done_odds[view] = (counted.sum() - done.sum() + 1) / (done.sum() + 1)

    def losses(
        self, maps: PointerMaps, view: int, target: AheadBatch, counts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the loss of one view as "pointer", its parts with their chance lines, and counts, by name without KEY.

        Each part is a mean over the entries that are known: targets for map and offset, done_targets for done. Entries
        that are not known count for nothing. "chance" is the loss of the mean map and of the done rate of the training
        split; "flat" is that of equal probabilities, ln(R C).

        Args:
            maps: Result of `forward` for B images.
            view: Index of the view in the options.
            target: Contacts ahead in these images.
            counts: `counts` of the target, or of the complete step if the images are only a part of it. The results are
                then the shares of this part.
        """
        known, told = target.known, target.done_known
        points, done = target.points.nan_to_num(), target.done.to(maps.done.dtype)
        entries, decided = (counts[name].clamp(min=1) for name in ("targets", "done_targets"))
        wanted = self.targets(points).flatten(2)
        crossed = -(wanted * maps.logits.float().flatten(2).log_softmax(dim=2)).sum(dim=2)
        cell = self.cells(points)
        offset = maps.offsets.float().flatten(1, 2).gather(1, cell[..., None].expand(-1, -1, 2))
        away = self._in_tokens(points) - self.centres[cell]
        apart = F.smooth_l1_loss(offset, away, reduction="none", beta=BETA).sum(dim=2)
        weight = self.done_odds[view]
        bce = F.binary_cross_entropy_with_logits(maps.done.float(), done.float(), reduction="none", pos_weight=weight)
        guess = (weight * self.done_rate[view] / (1 - self.done_rate[view])).log().expand_as(done)
        bce_chance = F.binary_cross_entropy_with_logits(guess, done.float(), reduction="none", pos_weight=weight)
        mean_log = self.mean_map[view].flatten(1).log()
        found = self.output(maps, view)

        def mean(values: Tensor, which: Tensor, number: Tensor) -> Tensor:
            return torch.where(which, values, 0).sum() / number

        parts = {
            "map": mean(crossed, known, entries),
            "offset": mean(apart, known, entries),
            "done": mean(bce, told, decided),
        }
        total = parts["map"] + parts["offset"] + self.options.done_weight * parts["done"]
        return {
            "pointer": total,
            **parts,
            "map_chance": mean(-(wanted * mean_log).sum(dim=2), known, entries),
            "map_flat": mean(torch.full_like(crossed, math.log(wanted.shape[2])), known, entries),
            "done_chance": mean(bce_chance, told, decided),
            "px": mean((found.points - points).norm(dim=2), known, entries),
            "said_done": mean(found.says_done.float(), told, decided),
            "is_done": mean(done.float(), told, decided),
            "left_out": (~known & ~(target.done & told)).sum(),
            "done_left_out": (~told).sum(),
            **entry_counts(target),
        }

    def _points(self, cells: Tensor, offsets: Tensor) -> Tensor:
        """Return the places (B, ..., 2), px, at tokens (B, ...) moved by their offsets, from those of all (B, N, 2)."""
        chosen = offsets.gather(1, cells.view(len(cells), -1, 1).expand(-1, -1, 2)).view(*cells.shape, 2)
        return (self.centres[cells] + chosen) * self.sides - 0.5

    def _in_tokens(self, points: Tensor) -> Tensor:
        """Return points (..., 2), px, in units of tokens from the upper left corner of the image."""
        return (points + 0.5) / self.sides

    def share(self, points: Tensor) -> Tensor:
        """Return points (..., 2), px, as shares of the width and the height of the image."""
        return self._in_tokens(points) / points.new_tensor(self.grid[::-1])


def entry_counts(target: AheadBatch) -> dict[str, Tensor]:
    """Return the numbers of entries over which the losses of a view are means."""
    return {"targets": target.known.sum(), "done_targets": target.done_known.sum()}


def sines(places: Tensor) -> Tensor:
    """Return sines and cosines (..., SINES) of places (..., 2), each a share 0..1 of the width or of the height."""
    angles = places[..., None] * (math.pi * 2.0 ** torch.arange(OCTAVES, device=places.device))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return a network with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
