"""Rewrites of exported graphs: one rule each, in place."""
