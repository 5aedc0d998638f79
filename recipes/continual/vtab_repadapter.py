"""RepAdapter with r = 8 on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_repadapter --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

The paper chooses s for each task out of 0.1, 0.5, 1, 5, 10; 1 stands here for all. To choose, for one task:
    mtpeft sweep vtab_repadapter --grid method.scale=0.1,0.5,1,5,10 --set stream.data.select=True --set \\
        "stream.tasks={'svhn': {'data': {'task': 'svhn'}}}"
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="repadapter")
published = {
    "RepAdapter": dict(
        source="Luo et al. 2023 (RepAdapter), V-PETL Bench's mean of the 19 tasks", values=dict(average_accuracy=73.84)
    )
}
