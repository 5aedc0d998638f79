"""Seven tasks of rendered scenes with Polyhistor-Lite as in its paper: adapters in two positions, made by
decomposed hypernetworks that layers share, and a scaling kernel of each layer.

Command:  python tools/train.py recipes/joint/scenes_polyhistor_lite_paper.py

As in the paper, as far as its counts of weights tell: an adapter after attention and one after the MLP, GELU, rho = 4, z of size
64, rank 12, and the backbone's norms trained. Ours: the scenes, the decoders and the schedule, which are those of all recipes on
scenes.
"""

_base_ = "_scenes.py"
method = [
    dict(
        name="houlsby",
        reduction=4,
        activation="gelu",
        sharing=dict(name="polyhistor_lite", rank=12, embedding_dim=64, hidden_dim=64),
    ),
    dict(name="ln_tune", sharing="shared"),
]
training = dict(optimizer=dict(lr=2e-3), head_lr=5e-3)
