"""Real clips cut, moved and re-timed into classes that need time to tell apart."""
