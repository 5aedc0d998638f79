"""SCT with 96 channels on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_sct --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

The released runs have a rate of 0.0007 to 0.075 and a decay of 0.0001 to 1 for each task; here one of each for all. To
choose, for one task:
    mtpeft sweep vtab_sct --grid training.optimizer.lr=1e-3,5e-3,2e-2 --set stream.data.select=True --set \\
        "stream.tasks={'svhn': {'data': {'task': 'svhn'}}}"
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="sct", num_channels=96)
training = dict(optimizer=dict(lr=5e-3, weight_decay=1e-2))
published = {
    "SCT": dict(
        source="Zhao et al., IJCV 2023 (SCT), V-PETL Bench's mean of the 19 tasks", values=dict(average_accuracy=73.59)
    )
}
