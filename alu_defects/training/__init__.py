"""Logits to a trained model."""
