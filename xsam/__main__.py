"""Run the `xsam` command with `python -m xsam`."""

from xsam.cli import main

if __name__ == "__main__":
    main()
