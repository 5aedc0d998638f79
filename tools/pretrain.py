"""Make an embedded backbone: `python tools/pretrain.py RECIPE [--set a.b=c ...]`; the same command again resumes."""

from mtpeft.pretraining.command import main

if __name__ == "__main__":
    raise SystemExit(main())
