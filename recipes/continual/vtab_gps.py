"""GPS with one connection of each neuron on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_gps --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

The released runs have a batch of 16 or 32, a rate of 0.0003 to 0.01 and drop path of 0 to 0.2 for each task; here one of
each for all.
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="gps")
training = dict(batch_size=32, optimizer=dict(_delete_=True, type="Adam", lr=2e-3, weight_decay=0.0))
published = {
    "GPS": dict(
        source="Zhang et al., CVPR 2024 (GPS), V-PETL Bench's mean of the 19 tasks", values=dict(average_accuracy=75.18)
    )
}
