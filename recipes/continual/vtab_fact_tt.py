"""FacT-TT with rank 16 on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_fact_tt --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

The paper chooses s for each task out of 0.01, 0.1, 1, 10, 100; 1 stands here for all. To choose, for one task:
    mtpeft sweep vtab_fact_tt --grid method.scale=0.01,0.1,1,10,100 --set stream.data.select=True --set \\
        "stream.tasks={'svhn': {'data': {'task': 'svhn'}}}"
Rank 8 or 16 by task.
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="fact_tt", rank=16)
published = {
    "FacT-TT": dict(
        source="Jie and Deng, AAAI 2023 (FacT-TT), mean of the 19 tasks", values=dict(average_accuracy=73.04)
    )
}
