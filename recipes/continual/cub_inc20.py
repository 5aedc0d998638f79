"""CUB-200, twenty new classes at a time (B0-Inc20), split 80 to 20, behind one growing head.

Command:  mtpeft continual cub_inc20 --set stream.data.root=/data/cub
Result:   dry run only: it needs the data and the backbone's weights
Duration: 10 tasks of 5 epochs; an hour or more on one GPU

The root has train/ and test/: the re-split archive of PILOT.
"""

_base_ = "_split.py"
stream = dict(data=dict(type="CUB80", root="data/cub"), classes_per_task=20)
