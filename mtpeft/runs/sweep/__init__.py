"""Many runs of one recipe: a grid of settings, seeds and class orders, run side by side by Ray, and what they gave."""
