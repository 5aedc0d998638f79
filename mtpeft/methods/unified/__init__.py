"""Frameworks that combine or search other methods."""
