"""Contact at run time, which holds the opening of a gripper whose reading is only its last command."""

import numpy as np

from tactile_align.datasets.contact import contact_of
from tactile_align.errors import InputError

ENTER, LEAVE = 4.0, 2.0  # grey levels; `contact_of` never calls less than 2 a contact, and knows the noise better


class ContactWatch:
    """Whether one sensor touches something, frame by frame, against a touch of nothing.

    `datasets.contact` sees whole episodes; a robot sees only the past. So the reference is a touch without contact:
    the one given, or the first frame after a reset.
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
        """Return the touch of nothing to hold a touch (H, W, 3) uint8 against: the one given, or else the first.

        Raises:
            InputError: A touch of another size than the reference.
        """
        if self.free is None:
            self.free = touch.copy()
        if touch.shape != self.free.shape:
            raise InputError(f"the touch of nothing has shape {self.free.shape}, this one {touch.shape}; call reset()")
        return self.free
