"""`python -m prebuilds`: the same as the `prebuilds` command."""

from prebuilds.cli import main

if __name__ == "__main__":
    main()
