"""Training some of the weights the backbone already has."""
