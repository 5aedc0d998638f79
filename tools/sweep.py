"""`mtpeft sweep` as a script."""

import sys

from mtpeft.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
