"""DTL+ with d' = 2 on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_dtl_plus --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

The paper chooses the rate for each task out of 1e-4, 3e-4, 5e-4, 8e-4, 1e-3, 3e-3, 5e-3, 8e-3, 1e-2; 1e-3 stands here for
all. To choose, for one task:
    mtpeft sweep vtab_dtl_plus --grid \\
        training.optimizer.lr=1e-4,3e-4,5e-4,8e-4,1e-3,3e-3,5e-3,8e-3,1e-2 --set stream.data.select=True \\
        --set "stream.tasks={'svhn': {'data': {'task': 'svhn'}}}"
The kernel is from {3, 4, 5}, here 3; drop path from {0, 0.1, 0.2}, here 0.1.
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="dtl_plus")
input = dict(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
training = dict(batch_size=32, optimizer=dict(weight_decay=0.05))
