"""Seven tasks of rendered scenes with adapters made by decomposed hypernetworks (Polyhistor).

Command:  python tools/train.py recipes/joint/scenes_polyhistor.py

A row of `compare_sharing`, with its one AdaptFormer adapter per block (`scenes_polyhistor_paper` as the paper).
"""

_base_ = "_scenes.py"
method = dict(name="adaptformer", bottleneck_dim=16)
sharing = dict(name="polyhistor", rank=8, embedding_dim=32, hidden_dim=32)
training = dict(optimizer=dict(lr=2e-3), head_lr=5e-3)
