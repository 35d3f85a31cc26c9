"""Cameras, the rig that holds them, and the check that it explains the recordings."""
