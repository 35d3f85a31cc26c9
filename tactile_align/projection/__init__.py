"""Projection: the box of a touch sensor in an image and the tokens that it covers, from a rig and joint readings."""
