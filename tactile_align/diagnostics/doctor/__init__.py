"""Doctor: checks of a run's data, pairs, model and first training steps."""
