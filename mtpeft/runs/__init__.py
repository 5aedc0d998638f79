"""What every run has, whichever engine trains it: recipe, folder, state, comparison, device, progress."""
