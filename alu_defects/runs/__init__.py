"""Run folders and sweeps: what was trained, with which settings, and how it ended."""
