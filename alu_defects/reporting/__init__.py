"""Runs to evidence."""
