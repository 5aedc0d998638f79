"""EFFT-2 with rank 32 on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_efft --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

The released runs have a rank of {8, 16, 32} and a scale of 0.01 to 100 for each task (`method.rank`, `method.scale`); here
one for all.
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="efft", rank=32)
published = {"EFFT-2": dict(source="Chen 2023 (EFFT), mean of the 19 tasks", values=dict(average_accuracy=73.58))}
