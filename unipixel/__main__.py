"""``python -m unipixel``: the command line."""

from unipixel.cli import main

if __name__ == "__main__":
    main()
