"""Rendered objects."""
