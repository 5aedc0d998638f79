"""Dense tasks: what each kind outputs, how it is trained, and how it is measured."""
