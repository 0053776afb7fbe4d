"""`python -m xsam`: the same as the `xsam` command."""

from xsam.cli import main

if __name__ == "__main__":
    main()
