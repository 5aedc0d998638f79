"""The task manager, and what attaches, counts, merges, saves and loads it."""
