"""LoRA on one task of VTAB-1k, for choosing settings: 800 training images, tested on the 200 of the published list.

Command:  mtpeft continual vtab_task --set stream.data.root=/data/vtab-1k --set stream.data.task=svhn
Result:   dry run only: it needs the data and the backbone's weights
Duration: 100 epochs of 800 images; minutes on one GPU

`--set stream.data.select=False` trains on all 1,000 and tests on the whole test list.
"""

_base_ = "_transfer.py"
input = dict(crop_mode="squash", crop_pct=1.0)
stream = dict(
    type="task_incremental",
    num_tasks=1,
    data=dict(type="VTAB", root="data/vtab-1k", task="cifar", select=True),
)
