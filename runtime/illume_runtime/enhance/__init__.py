"""Self-enhancement without torch: a corpus that the model draws, and its own assessment of what it drew."""
