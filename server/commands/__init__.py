"""The commands of `python -m server`, each with its flags and what it does."""
