"""GPS with two connections of each neuron on the five sets of FGVC, weights of its own for each.

Command:  mtpeft continual fgvc_gps --set stream.tasks.cub.data.root=/data/CUB_200_2011
Result:   dry run only: it needs the data and the backbone's weights
Duration: 5 times 100 epochs of 1,000 to 21,000 images; a day on one GPU

The released runs have 1 to 20 connections, a rate of 0.0001 to 0.003 and drop path for each set; here one of each for all,
drop path 0.1 as they have it on two sets, and no moving average of the weights.
"""

_base_ = "fgvc.py"
method = dict(_delete_=True, name="gps", connections=2)
training = dict(batch_size=32, optimizer=dict(_delete_=True, type="Adam", lr=1e-3, weight_decay=0.0))
published = {
    "GPS": dict(
        source="Zhang et al., CVPR 2024 (GPS)",
        values=dict(cub=89.9, nabirds=86.7, flowers=99.7, dogs=92.2, cars=90.4, average_accuracy=91.78),
    )
}
