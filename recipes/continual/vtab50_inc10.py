"""Five data sets of VTAB in turn, ten classes of each (B0-Inc10, not shuffled), behind one growing head.

Command:  mtpeft continual vtab50_inc10 --set stream.data.root=/data/vtab50
Result:   dry run only: it needs the data and the backbone's weights
Duration: 5 tasks of 5 epochs of 360 images; minutes on one GPU

The root has train/ and test/: the re-split archive of PILOT.
"""

_base_ = "_split.py"
stream = dict(data=dict(type="VTAB50", root="data/vtab50"), classes_per_task=10, order_seed=None)
