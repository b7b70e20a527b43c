"""Rules over the task's answers: when they hold, and who is told."""
