"""Images, streams of tasks, and the loaders that feed them to a backbone."""
