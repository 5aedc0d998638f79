"""Seven tasks of rendered scenes with Hyperformer as in its paper: generated adapters in two positions, with generated norms.

Command:  python tools/train.py recipes/joint/scenes_hyperformer_paper.py

As in the authors' code: an adapter after attention and one after the MLP, a norm behind each, all their weights made of a
normalised z of size 64 through a hidden layer of 128. As in the paper on dense tasks that compares with it (Polyhistor): GELU,
rho = 4, and the backbone's norms trained. Ours: the scenes, the decoders and the schedule, which are those of all recipes on
scenes.
"""

_base_ = "_scenes.py"
method = [
    dict(
        name="houlsby",
        reduction=4,
        activation="gelu",
        adapter_ln="out",
        sharing=dict(name="hyperformer", embedding_dim=64, hidden_dim=128),
    ),
    dict(name="ln_tune", sharing="shared"),
]
training = dict(optimizer=dict(lr=2e-3), head_lr=5e-3)
