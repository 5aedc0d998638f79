"""LoRA on one data set of FGVC, for choosing settings: trained on train.json, measured on val.json.

Command:  mtpeft continual fgvc_task --set stream.data.root=/data/CUB_200_2011 --set stream.data.task=cub
Result:   dry run only: it needs the data and the backbone's weights
Duration: 100 epochs of 1,000 to 21,000 images; hours on one GPU

`--set stream.data.select=False` tests on test.json.
"""

_base_ = "_transfer.py"
input = dict(crop_pct=0.875)
augment = dict(random_crop=0.875, flip=True)
stream = dict(
    type="task_incremental",
    num_tasks=1,
    data=dict(type="FGVC", root="data/fgvc/CUB_200_2011", task="cub", select=True),
)
training = dict(batch_size=128, optimizer=dict(weight_decay=0.05))
