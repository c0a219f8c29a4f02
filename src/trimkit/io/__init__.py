"""Files, settings and text: how they are read, written and printed."""
