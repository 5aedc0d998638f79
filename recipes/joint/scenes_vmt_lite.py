"""Seven tasks of rendered scenes with VMT-Adapter-Lite: its projections are shared between down and up.

Command:  python tools/train.py recipes/joint/scenes_vmt_lite.py
"""

_base_ = "_scenes.py"
method = "vmt_adapter_lite"
