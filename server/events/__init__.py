"""What happens: stored frames for those who look on, also of other programs."""
