"""The plugin for lmms-eval, and the paper's table made with it."""
