"""Changes of weights or features that fold into the backbone's own weights."""
