"""The ``trimkit`` command, also as ``python -m trimkit``."""

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the ``trimkit`` script: imports the commands within what answers Ctrl-C in one line."""
    try:
        from trimkit.cli import main as commands
    except KeyboardInterrupt:
        print("trimkit: interrupted", file=sys.stderr)
        sys.exit(130)
    commands()


if __name__ == "__main__":
    main()
