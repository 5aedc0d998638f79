"""Convpass on both branches on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_convpass --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

The paper chooses s for each task out of 0.01, 0.1, 1, 10, 100; 1 stands here for all. To choose, for one task:
    mtpeft sweep vtab_convpass --grid method.scale=0.01,0.1,1,10,100 --set stream.data.select=True --set \\
        "stream.tasks={'svhn': {'data': {'task': 'svhn'}}}"
Its convolutions start at the identity or at random, by task (`method.conv_init`).
"""

_base_ = "vtab.py"
backbone = dict(name="vit_base_patch16_224.augreg_in21k")
method = dict(_delete_=True, name="convpass", bottleneck_dim=8, scale=1.0)
published = {
    "Convpass": dict(source="Jie and Deng 2022 (Convpass), mean of the 19 tasks", values=dict(average_accuracy=74.45))
}
