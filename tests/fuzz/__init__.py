"""Hostile command lines: no traceback, no exit code but 0, 2 and 130, no hang, and no file of the user's lost."""
