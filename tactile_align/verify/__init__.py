"""Verification of a rig against recordings: whether its boxes lie on the sensors that the frames show."""
