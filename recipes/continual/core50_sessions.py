"""CORe50 (NI): 50 objects in one recording session after another, tested on three others.

Command:  mtpeft continual core50_sessions --set stream.data.root=/data/core50_128x128
Result:   dry run only: it needs the data and the backbone's weights
Duration: 8 tasks of 5 epochs of 15,000 images; a day on one GPU

Sessions 3, 7 and 10 are the test part of every task. Settings are ours.
"""

_base_ = "_split.py"
stream = dict(
    _delete_=True,
    type="domain_incremental",
    data=dict(type="CORe50", root="data/core50_128x128"),
    domains={f"s{number}": dict(sessions=[number]) for number in (1, 2, 4, 5, 6, 8, 9, 11)},
)
method = dict(_delete_=True, name="lora", rank=8)
sharing = "shared"
plugins = []
training = dict(batch_size=64, optimizer=dict(lr=1e-3), loss="cross_entropy")
baselines = False
