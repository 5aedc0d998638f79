"""`mtpeft continual` as a script."""

import sys

from mtpeft.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["continual", *sys.argv[1:]]))
