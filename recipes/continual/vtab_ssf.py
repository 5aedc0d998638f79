"""SSF on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_ssf --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

The released runs have a rate of 0.001 to 0.05, a decay of 5e-5 or 0.05 and drop path of 0 to 0.2 for each task; here the
most frequent of each for all, drop path 0.1.
"""

_base_ = "vtab.py"
backbone = dict(name="vit_base_patch16_224.augreg_in21k")
method = dict(_delete_=True, name="ssf")
input = dict(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
training = dict(optimizer=dict(lr=5e-3, weight_decay=5e-5))
