"""Stream-51, three of 51 classes of video frames at a time, behind one growing head.

Command:  mtpeft continual stream51_inc3 --set stream.data.root=/data/stream51
Result:   dry run only: it needs the data and the backbone's weights
Duration: 17 tasks of 5 epochs; a day on one GPU

The tasks are ours: its own protocol is online, frame by frame.
"""

_base_ = "_split.py"
stream = dict(data=dict(type="Stream51", root="data/stream51"), classes_per_task=3)
