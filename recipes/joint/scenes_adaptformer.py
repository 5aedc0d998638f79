"""Seven tasks of rendered scenes with AdaptFormer adapters of each task's own.

Command:  python tools/train.py recipes/joint/scenes_adaptformer.py
"""

_base_ = "_scenes.py"
method = dict(name="adaptformer", bottleneck_dim=16)
sharing = "per_task"
