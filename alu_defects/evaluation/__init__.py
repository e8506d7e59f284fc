"""Predictions → numbers: metrics, intervals, thresholds, comparisons."""
