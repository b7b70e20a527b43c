"""Decode files to pictures, and ask a task about them."""
