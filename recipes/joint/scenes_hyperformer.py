"""Seven tasks of rendered scenes with adapters made by a plain hypernetwork (HyperFormer).

Command:  python tools/train.py recipes/joint/scenes_hyperformer.py

A row of `compare_sharing`, with its one AdaptFormer adapter per block (`scenes_hyperformer_paper` as the paper).
"""

_base_ = "_scenes.py"
method = dict(name="adaptformer", bottleneck_dim=16)
sharing = dict(name="hyperformer", embedding_dim=16, hidden_dim=32, generator_bias=False, layer_norm=False)
training = dict(optimizer=dict(lr=2e-3), head_lr=5e-3)
