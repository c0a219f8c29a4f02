"""Where checkpoints that were exported before ``trimkit.attach`` look for their ``generate``. New code imports nothing here."""
