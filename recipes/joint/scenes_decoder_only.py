"""Seven tasks of rendered scenes with decoders on the frozen pyramid: what the methods are measured against.

Command:  python tools/train.py recipes/joint/scenes_decoder_only.py
"""

_base_ = "_scenes.py"
method = "linear_probe"
