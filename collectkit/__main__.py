"""``python -m collectkit`` is the command ``collectkit``."""

from collectkit.cli import main

if __name__ == "__main__":
    main()
