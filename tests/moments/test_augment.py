"""Augmentation moves image and box together and is a function of its seed."""

import torch

from tactile_align.config.train import AugmentConfig
from tactile_align.moments.augment import augment


def batch_with_a_bright_patch(count: int = 6) -> dict[str, torch.Tensor]:
    images = torch.zeros(count, 40, 56, 3, dtype=torch.uint8)
    images[:, 14:22, 20:32] = 200
    box = torch.tensor([19.5, 13.5, 31.5, 21.5]).expand(count, 4)
    return {"image/v": images, "box/v": box, "visible/v": torch.ones(count, dtype=torch.bool)}


def test_the_box_follows_its_patch_to_a_random_place() -> None:
    config = AugmentConfig(shift_px=4, gain=0.3, shuffle_channels=1.0)
    moved = augment(batch_with_a_bright_patch(), ("v",), config, torch.Generator().manual_seed(3))
    assert moved["image/v"].shape == (6, 32, 48, 3)
    places = set()
    for image, box in zip(moved["image/v"], moved["box/v"], strict=True):
        rows, columns = (image.sum(-1) > 0).nonzero().unbind(1)
        found = [columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5]
        assert box.tolist() == [float(edge) for edge in found]
        places.add(tuple(box.tolist()))
    assert len(places) > 2


def test_the_same_seed_gives_the_same_views_and_none_gives_the_centre() -> None:
    config = AugmentConfig(shift_px=4, gain=0.3, shuffle_channels=0.5)
    first, second = (
        augment(batch_with_a_bright_patch(), ("v",), config, torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(first["image/v"], second["image/v"])
    centred = augment(batch_with_a_bright_patch(), ("v",), config, None)
    assert torch.equal(centred["image/v"], batch_with_a_bright_patch()["image/v"][:, 4:36, 4:52])


def test_the_other_fingers_box_moves_by_the_same_cut() -> None:
    batch = batch_with_a_bright_patch()
    batch["other_box/v"] = batch["box/v"] + torch.tensor([9.0, -5.0, 11.0, 3.0])
    moved = augment(batch, ("v",), AugmentConfig(shift_px=4), torch.Generator().manual_seed(3))
    apart = moved["other_box/v"] - moved["box/v"]
    assert apart.tolist() == [[9.0, -5.0, 11.0, 3.0]] * 6 and not torch.equal(moved["box/v"], batch["box/v"])


def test_a_box_that_the_shift_pushes_out_of_the_image_is_no_longer_visible() -> None:
    batch = batch_with_a_bright_patch(200)
    batch["box/v"] = torch.tensor([-0.5, 13.5, 1.5, 21.5]).repeat(200, 1)  # two columns at the left border
    batch["visible/v"][::2] = False
    moved = augment(batch, ("v",), AugmentConfig(shift_px=4), torch.Generator().manual_seed(3))
    columns = moved["box/v"][:, 2] - 1.5 + 2  # of the patch's two columns, how many are left of the cut's border
    assert torch.equal(moved["visible/v"], batch["visible/v"] & (columns > -0.0))
    assert 20 < int(moved["visible/v"].sum()) < 80, "some are pushed out, some are not"
