"""Augmentation moves image and box together and is a function of its seed."""

from dataclasses import replace

import torch

from tactile_align.config.train import AugmentConfig
from tactile_align.moments.augment import augment
from tactile_align.moments.batch import ObservationBatch, ViewBatch


def view_with_a_bright_patch(count: int = 6) -> ViewBatch:
    images = torch.zeros(count, 40, 56, 3, dtype=torch.uint8)
    images[:, 14:22, 20:32] = 200
    box = torch.tensor([19.5, 13.5, 31.5, 21.5]).expand(count, 4)
    return ViewBatch(images, box, torch.ones(count, dtype=torch.bool))


def augmented(view: ViewBatch, config: AugmentConfig, generator: torch.Generator | None) -> ViewBatch:
    return augment(ObservationBatch(qpos=torch.zeros(len(view.image), 7), views={"v": view}), config, generator).views[
        "v"
    ]


def test_the_box_follows_its_patch_to_a_random_place() -> None:
    config = AugmentConfig(shift_px=4, gain=0.3, shuffle_channels=1.0)
    moved = augmented(view_with_a_bright_patch(), config, torch.Generator().manual_seed(3))
    assert moved.image.shape == (6, 32, 48, 3)
    places = set()
    for image, box in zip(moved.image, moved.box, strict=True):
        rows, columns = (image.sum(-1) > 0).nonzero().unbind(1)
        found = [columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5]
        assert box.tolist() == [float(edge) for edge in found]
        places.add(tuple(box.tolist()))
    assert len(places) > 2


def test_the_same_seed_gives_the_same_views_and_none_gives_the_centre() -> None:
    config = AugmentConfig(shift_px=4, gain=0.3, shuffle_channels=0.5)
    first, second = (augmented(view_with_a_bright_patch(), config, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.image, second.image)
    centred = augmented(view_with_a_bright_patch(), config, None)
    assert torch.equal(centred.image, view_with_a_bright_patch().image[:, 4:36, 4:52])


def test_the_other_fingers_box_moves_by_the_same_cut() -> None:
    view = view_with_a_bright_patch()
    view = replace(view, other_box=view.box + torch.tensor([9.0, -5.0, 11.0, 3.0]))
    moved = augmented(view, AugmentConfig(shift_px=4), torch.Generator().manual_seed(3))
    apart = moved.other_box - moved.box
    assert apart.tolist() == [[9.0, -5.0, 11.0, 3.0]] * 6 and not torch.equal(moved.box, view.box)


def test_a_box_that_the_shift_pushes_out_of_the_image_is_no_longer_visible() -> None:
    box = torch.tensor([-0.5, 13.5, 1.5, 21.5]).repeat(200, 1)  # two columns at the left border
    view = replace(view_with_a_bright_patch(200), box=box, visible=torch.arange(200) % 2 == 1)
    moved = augmented(view, AugmentConfig(shift_px=4), torch.Generator().manual_seed(3))
    columns = moved.box[:, 2] - 1.5 + 2  # of the patch's two columns, how many are left of the cut's border
    assert torch.equal(moved.visible, view.visible & (columns > -0.0))
    assert 20 < int(moved.visible.sum()) < 80, "some are pushed out, some are not"
