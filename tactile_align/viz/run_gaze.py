"""Pictures of where a run's policy looks: attention over an episode, and on the tokens of region and touch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tactile_align.evenly import evenly
from tactile_align.geometry.boxes import enlarge
from tactile_align.geometry.images import ImageMap
from tactile_align.viz.charts import attention_over_time
from tactile_align.viz.maps import similarity_map
from tactile_align.viz.tiles import beside, grid, headed, stacked, tall

if TYPE_CHECKING:
    from tactile_align.diagnostics.gaze import Attention
    from tactile_align.policies.aligned import AlignedPolicy
    from tactile_align.training.config import TrainConfig
    from tactile_align.training.data import Data

SHOWN = 4
"""Moments whose tokens are shown."""
TALL_PX = 240
"""Height at which an encoder's small input is drawn."""


def attention_pictures(
    models: Mapping[int, "AlignedPolicy"], data: "Data", config: "TrainConfig", keys: Sequence[str], episode: int
) -> dict[int, np.ndarray]:
    """Draw the attention of a policy over a held-out episode, by training step, all on one scale.

    Args:
        models: The policy by the step it was trained to.
        data: The run's moments.
        config: The run's.
        keys: Its views.
        episode: Which held-out episode.
    """
    from tactile_align.diagnostics.gaze import attention

    moments = data.held_out
    rows = np.flatnonzero(moments.episode == episode)
    found = {step: attention(model, moments, config, rows.tolist()) for step, model in models.items()}
    last = models[max(models)]
    touching = np.any([moments.column(f"contact/{sensor}")[rows] for sensor in last.sensors], axis=0)
    visible = np.all([moments.column(f"visible/{key}")[rows] for key in keys], axis=0)
    places = np.flatnonzero(touching & visible)
    places = places[evenly(len(places), SHOWN)]
    shown = [scores[places] for one in found.values() for scores in one.maps.values()]
    high = max((float(scores.max()) for scores in shown if scores.size), default=1.0)
    name = moments.jobs[episode].ref.path.stem
    pictures = {}
    for step, one in found.items():
        title = f"attention of the policy, {name}, {when(step)}"
        shares = np.stack(list(one.shares.values()), axis=1)
        parts = [attention_over_time(shares, list(one.shares), contact=touching, title=title)]
        if len(places) and one.maps:
            cells = _looked_at(models[step], data, config, one, rows, places, keys, high)
            parts.append(headed(grid(cells, 2), "attention on the tokens of region and touch, moments in contact"))
        pictures[step] = stacked(parts)
    return pictures


def when(step: int) -> str:
    """Return what a picture's title calls a training step."""
    return "before training" if step == 0 else f"after {step} steps"


def _looked_at(
    model: "AlignedPolicy",
    data: "Data",
    config: "TrainConfig",
    found: "Attention",
    rows: np.ndarray,
    places: np.ndarray,
    keys: Sequence[str],
    high: float,
) -> list[np.ndarray]:
    """Return a picture for each of some rows: its regions and touches under the attention on their tokens."""
    from tactile_align.diagnostics.evaluation import centred

    batch = centred(data.held_out.__getitems__(rows[places].tolist()), config)
    cells = []
    for i, place in enumerate(places):
        shown = []
        for key in keys if model.reads_regions else ():
            box = batch[f"box/{key}"][i].numpy().astype(np.float64)
            window, scores = enlarge(box, config.features.margin), found.maps[f"region {key}"][place]
            shown.append(laid_over(batch[f"image/{key}"][i].numpy(), scores, box, window, (0.0, high), f"row {place}"))
        for sensor in model.sensors if model.reads_touches else ():
            touch, scores = batch[f"image/{sensor}"][i].numpy(), found.maps[f"touch {sensor}"][place]
            shown.append(laid_over(touch, scores, None, None, (0.0, high), sensor))
        cells.append(beside(shown))
    return cells


def laid_over(
    image: np.ndarray,
    scores: np.ndarray,
    box: np.ndarray | None,
    window: np.ndarray | None,
    limits: tuple[float, float],
    title: str,
) -> np.ndarray:
    """Return a small image drawn large, with scores over all of it or over a window (4,) of it."""
    high = TALL_PX
    wide = round(image.shape[1] * high / image.shape[0])
    to_large = ImageMap.identity(image.shape[1], image.shape[0]).resize(wide, high)
    large = tall(image, high)
    large_box = None if box is None else to_large.apply_to_box(box)
    tokens = ImageMap.identity(wide, high)
    if window is not None:
        rows, columns = scores.shape
        tokens = tokens.crop_box(to_large.apply_to_box(window), 64 * columns, 64 * rows)
    return similarity_map(large, scores, input_map=tokens, box=large_box, limits=limits, title=title)
