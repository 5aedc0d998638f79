"""Backbones: anatomy of timm models, instrumented attention, embedded backbones."""
