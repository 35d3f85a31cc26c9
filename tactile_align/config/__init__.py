"""Pydantic models for the configuration of a run: data, features, loss, policy and training."""
