"""How a method's modules get into a running backbone: hooks at sites, and what one forward pass knows."""
