"""ARC with rank 50 on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_arc --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

As in the released script, which the paper tunes for each task.
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="arc")
training = dict(batch_size=32, clip=1.0, optimizer=dict(lr=1e-2, weight_decay=0.0))
