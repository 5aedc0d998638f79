"""Full fine-tuning on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_full --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

VPT's baseline chooses rate and decay for each task; here one of each for all. To choose, for one task:
    mtpeft sweep vtab_full --grid training.optimizer.lr=1e-5,1e-4,1e-3 --set stream.data.select=True --set \\
        "stream.tasks={'svhn': {'data': {'task': 'svhn'}}}"
"""

_base_ = "vtab.py"
backbone = dict(_delete_=True, name="vit_base_patch16_224.orig_in21k")
method = dict(_delete_=True, name="full")
training = dict(batch_size=64, optimizer=dict(lr=1e-4, weight_decay=1e-2))
