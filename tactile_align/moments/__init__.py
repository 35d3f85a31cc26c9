"""Synchronised moments of recorded episodes as training data for torch."""
