"""The GPU: one small protocol, implementations by name, imported when they are chosen."""
