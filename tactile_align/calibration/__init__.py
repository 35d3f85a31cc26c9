"""Cameras, the rig that holds them, and the solvers that calibrate them."""
