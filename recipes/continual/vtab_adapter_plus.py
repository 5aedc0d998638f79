"""Adapter+ with r = 8 on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_adapter_plus --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

No choice for each task. Different from the paper: batches that are not full are used, no bfloat16 (`training.amp`), and
cosine ends at 0.
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="adapter_plus")
input = dict(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
