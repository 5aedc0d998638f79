"""Seven tasks of rendered scenes with MTLoRA: low-rank updates for all tasks, and of each task in the last block of a stage.

Command:  python tools/train.py recipes/joint/scenes_mtlora.py
"""

_base_ = "_scenes.py"
method = dict(name="mtlora", rank=8)
