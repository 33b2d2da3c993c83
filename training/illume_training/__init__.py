"""Trains illume-tiny by the three-stage recipe."""
