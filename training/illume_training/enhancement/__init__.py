"""Self-enhancement in the world of illume-tiny, without torch: judges, and lessons from what they say."""
