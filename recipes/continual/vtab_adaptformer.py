"""AdaptFormer with r = 8 on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_adaptformer --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

Settings of NOAH's and FacT's code. The paper chooses s for each task out of 0.01, 0.1, 1, 10, 100; 0.1 stands here for all.
To choose, for one task:
    mtpeft sweep vtab_adaptformer --grid method.scale=0.01,0.1,1,10,100 --set stream.data.select=True --set \\
        "stream.tasks={'svhn': {'data': {'task': 'svhn'}}}"
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="adaptformer", bottleneck_dim=8, scale=0.1)
