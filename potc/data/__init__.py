"""Samples: where they come from, and that they fit the model."""
