"""Photographs to batches."""
