"""Projection: the box of a sensor in an image, and the tokens inside it, from a rig and joint readings."""
