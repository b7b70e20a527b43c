"""Tell readers of stored frames, also of those that other programs stored."""
