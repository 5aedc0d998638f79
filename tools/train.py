"""`mtpeft train` as a script."""

import sys

from mtpeft.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
