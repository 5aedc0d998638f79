"""BitFit on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_bitfit --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

V-PETL Bench has a rate of 0.0007 to 0.06 and a decay for each task, and augments twelve of them; here neither. To choose,
for one task:
    mtpeft sweep vtab_bitfit --grid training.optimizer.lr=1e-3,3e-3,1e-2 --set stream.data.select=True --set \\
        "stream.tasks={'svhn': {'data': {'task': 'svhn'}}}"
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="bitfit")
training = dict(optimizer=dict(weight_decay=0.0))
