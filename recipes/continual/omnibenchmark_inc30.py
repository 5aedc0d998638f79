"""OmniBenchmark, thirty of 300 new classes at a time (B0-Inc30), behind one growing head.

Command:  mtpeft continual omnibenchmark_inc30 --set stream.data.root=/data/omnibenchmark
Result:   dry run only: it needs the data and the backbone's weights
Duration: 10 tasks of 5 epochs; an hour or more on one GPU

The root has train/ and test/: the re-split archive of PILOT.
"""

_base_ = "_split.py"
stream = dict(data=dict(type="OmniBenchmark", root="data/omnibenchmark"), classes_per_task=30)
