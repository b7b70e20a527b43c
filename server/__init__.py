"""The server: it receives, decodes, stores and shows frames, and decodes files."""
