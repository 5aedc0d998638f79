"""Seven tasks of rendered scenes with one set of AdaptFormer adapters for all tasks.

Command:  python tools/train.py recipes/joint/scenes_adaptformer_shared.py
"""

_base_ = "_scenes.py"
method = dict(name="adaptformer", bottleneck_dim=16)
sharing = "shared"
