"""``python -m trimkit`` is the ``trimkit`` command."""

from trimkit.cli import main

if __name__ == "__main__":
    main()
