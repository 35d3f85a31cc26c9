"""Training data for torch: moments of recorded episodes. A moment is one synchronised instant."""
