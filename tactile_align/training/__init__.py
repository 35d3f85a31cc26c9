"""Offline training: loop, optimiser, validation and logs."""
