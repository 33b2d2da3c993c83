"""Evaluates a bundle with a checker that knows nothing of the model."""
