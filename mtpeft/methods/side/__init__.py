"""Networks beside the backbone; no gradient flows through it."""
