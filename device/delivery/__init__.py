"""From an encoded frame to the server's acknowledgment."""
