"""Learned keys, values or queries inside attention."""
