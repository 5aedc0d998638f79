"""FacT-TK with rank 32 on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_fact_tk --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

The paper chooses s for each task out of 0.01, 0.1, 1, 10, 100; 1 stands here for all. To choose, for one task:
    mtpeft sweep vtab_fact_tk --grid method.scale=0.01,0.1,1,10,100 --set stream.data.select=True --set \\
        "stream.tasks={'svhn': {'data': {'task': 'svhn'}}}"
Rank 16 or 32 by task.
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="fact_tk", rank=32)
