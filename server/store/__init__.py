"""Files and rows: what was received, how long it is kept, and whose it is."""
