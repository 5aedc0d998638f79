"""`mtpeft report` as a script."""

import sys

from mtpeft.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
