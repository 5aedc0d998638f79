"""Prompts: learned pixels or tokens at the input of the network or of its blocks."""
