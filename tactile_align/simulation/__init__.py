"""Simulated cell with a Nova 2 arm in MuJoCo, with its own ray caster and gel model; it records X-Trainer episodes."""
