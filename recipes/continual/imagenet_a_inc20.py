"""ImageNet-A, twenty new classes at a time (B0-Inc20), behind one growing head.

Command:  mtpeft continual imagenet_a_inc20 --set stream.data.root=/data/imagenet-a
Result:   dry run only: it needs the data and the backbone's weights
Duration: 10 tasks of 5 epochs; an hour or more on one GPU

The root has train/ and test/: the re-split archive of PILOT.
"""

_base_ = "_split.py"
stream = dict(data=dict(type="ImageNetA", root="data/imagenet-a"), classes_per_task=20)
