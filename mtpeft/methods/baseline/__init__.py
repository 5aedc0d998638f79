"""The references every method is compared with."""
