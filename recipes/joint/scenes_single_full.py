"""Seven tasks of rendered scenes, each with a pyramid of its own, all weights trained: the single-task values.

Command:  python tools/train.py recipes/joint/scenes_single_full.py
"""

_base_ = "_scenes.py"
method = "full"
separate = True
training = dict(optimizer=dict(lr=1e-3), head_lr=5e-3)
