"""Offline training: the loop, optimiser, validation, logs."""
