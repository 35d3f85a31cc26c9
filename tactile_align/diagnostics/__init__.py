"""Diagnostics: checks before training, and evaluation of what a run has learnt."""
