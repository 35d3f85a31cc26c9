"""Offline training: configuration, loop, checkpoints, logs."""
