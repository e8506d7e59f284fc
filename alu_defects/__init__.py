"""Experiment framework for classifying surface defects of aluminium profiles."""

__version__ = "0.1.0"
