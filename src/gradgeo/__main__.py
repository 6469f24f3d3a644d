"""The command line as `python -m gradgeo`."""

from gradgeo.cli import main

if __name__ == "__main__":
    main()
