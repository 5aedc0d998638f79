"""NOAH on one task of VTAB-1k: supernet on 800 images, search on the 200 others, the subnet on all 1,000.

Command:  mtpeft continual vtab_noah --set stream.data.root=/data/vtab-1k --set stream.data.task=svhn
Result:   dry run only: it needs the data and the backbone's weights
Duration: 500 epochs of 800 images, 750 measures of 200, 100 epochs of 1,000; hours on one GPU

The 200 are a share of each class, not those of the published list.
"""

_base_ = "_transfer.py"
method = dict(_delete_=True, name="noah")
input = dict(crop_mode="squash", crop_pct=1.0)
stream = dict(
    type="task_incremental",
    num_tasks=1,
    data=dict(type="VTAB", root="data/vtab-1k", task="cifar"),
    validation=dict(share=0.2),
)
training = dict(epochs=500, optimizer=dict(lr=5e-4), warmup=0.02)
search = dict(
    sizes=[1, 5, 10],
    retrain=dict(training=dict(epochs=100, optimizer=dict(lr=1e-3), warmup=0.1)),
)
