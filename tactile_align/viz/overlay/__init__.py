"""Drawing of recorded frames with the projected boxes; does not import torch."""
