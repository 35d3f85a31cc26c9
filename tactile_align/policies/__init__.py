"""Policies, which predict a chunk of actions from one moment."""
