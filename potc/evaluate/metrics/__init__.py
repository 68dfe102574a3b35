"""Metrics: how right a model's answers are."""
