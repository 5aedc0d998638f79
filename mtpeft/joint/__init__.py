"""Joint training: one backbone predicts several dense tasks together, driven by MMEngine's `Runner`."""
