"""Calibration of where a sensor sits on its finger."""
