"""Calibration sessions: reading their files, solving, diagnosis, reports, and writing results into a rig."""
