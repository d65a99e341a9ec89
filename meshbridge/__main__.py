"""``python -m meshbridge`` is the ``meshbridge`` command."""

from meshbridge.cli import main

if __name__ == "__main__":
    main()
