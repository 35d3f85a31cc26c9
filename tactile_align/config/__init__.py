"""Configuration of a run: data, features, loss, policy, training."""
