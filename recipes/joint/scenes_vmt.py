"""Seven tasks of rendered scenes with VMT-Adapter: one pass of the frozen pyramid serves all of them.

Command:  python tools/train.py recipes/joint/scenes_vmt.py
Duration: under 10 minutes on 2 cores, the rendering of the scenes on first use included
"""

_base_ = "_scenes.py"
method = "vmt_adapter"
