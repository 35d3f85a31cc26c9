"""A calibration session as files: read, solve, diagnose, report, write into a rig."""
