"""The command line, as ``python -m backdraw``."""

from backdraw.cli import main

if __name__ == "__main__":
    main()
