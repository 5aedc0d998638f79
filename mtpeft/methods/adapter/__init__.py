"""Adapters: small bottleneck networks beside or after a sub-layer."""
