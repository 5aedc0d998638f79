"""SSF on CUB-200 as VPT splits it, with the augmentation of its paper: random crops, mixup, cutmix, erasing, smoothing.

Command:  mtpeft continual fgvc_ssf --set stream.data.root=/data/CUB_200_2011
Result:   dry run only: it needs the data and the backbone's weights
Duration: 100 epochs of 5,400 images; hours on one GPU

Different from the paper: no moving average of the weights. On CUB there is no drop path.
"""

_base_ = "_transfer.py"
backbone = dict(_delete_=True, name="vit_base_patch16_224.augreg_in21k")
method = dict(_delete_=True, name="ssf")
input = dict(_delete_=True, crop_pct=0.9)
augment = dict(scale=[0.08, 1.0], flip=True, re_prob=0.25, mixup=0.8, cutmix=1.0, smoothing=0.1)
stream = dict(
    type="task_incremental",
    num_tasks=1,
    data=dict(type="FGVC", root="data/fgvc/CUB_200_2011", task="cub"),
)
training = dict(optimizer=dict(lr=1e-2, weight_decay=0.05))
published = dict(SSF=dict(source="Lian et al. 2022 (SSF), FGVC", values=dict(average_accuracy=89.5)))
