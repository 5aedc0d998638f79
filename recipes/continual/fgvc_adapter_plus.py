"""Adapter+ with r = 8 on the five sets of FGVC, weights of its own for each.

Command:  mtpeft continual fgvc_adapter_plus --set stream.tasks.cub.data.root=/data/CUB_200_2011
Result:   dry run only: it needs the data and the backbone's weights
Duration: 5 times 100 epochs of 1,000 to 21,000 images; a day on one GPU

As on VTAB-1k, with random resized crops and flips. Different from the paper: no bfloat16 (`training.amp`).
"""

_base_ = "fgvc.py"
method = dict(_delete_=True, name="adapter_plus")
input = dict(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
augment = dict(_delete_=True, scale=[0.08, 1.0], flip=True)
training = dict(batch_size=64, optimizer=dict(weight_decay=1e-4))
published = {
    "Adapter+": dict(source="Steitz and Roth, CVPR 2024 (Adapter+), small budget", values=dict(average_accuracy=90.7))
}
