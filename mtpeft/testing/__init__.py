"""Tools for tests: tiny backbones and the conformance harness."""
