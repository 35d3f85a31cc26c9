"""At most so many of many, evenly spread."""

import numpy as np
import pytest

from tactile_align.evenly import evenly


@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 1), (1, 5), (5, 5), (6, 5), (7, 2), (100, 9), (1000, 64)])
def test_indices_go_from_the_first_to_the_last_at_equal_distances(count: int, most: int) -> None:
    found = evenly(count, most)
    assert found.dtype == np.int64 and len(found) == min(count, most)
    if most >= 2 and count:
        assert found[0] == 0 and found[-1] == count - 1
    assert (np.diff(found) >= 1).all()
    exact = [i * (count - 1) / max(len(found) - 1, 1) for i in range(len(found))]
    assert np.abs(found - np.array(exact)).max(initial=0) <= 0.5


def test_one_of_many_is_the_first_and_none_of_many_is_none() -> None:
    assert evenly(9, 1).tolist() == [0] and evenly(9, 0).tolist() == []
