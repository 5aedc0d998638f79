"""Seven tasks of rendered scenes with all weights of one pyramid trained together.

Command:  python tools/train.py recipes/joint/scenes_full.py
"""

_base_ = "_scenes.py"
method = "full"
training = dict(optimizer=dict(lr=1e-3), head_lr=5e-3)
