"""Prefix tuning with 20 prefixes on the five sets of FGVC, weights of its own for each.

Command:  mtpeft continual fgvc_prefix_tuning --set stream.tasks.cub.data.root=/data/CUB_200_2011
Result:   dry run only: it needs the data and the backbone's weights
Duration: 5 times 100 epochs of 1,000 to 21,000 images; a day on one GPU

As in V-PETL Bench.
"""

_base_ = "fgvc.py"
method = dict(_delete_=True, name="prefix_tuning", num_tokens=20)
published = {
    "Prefix tuning": dict(
        source="V-PETL Bench, README (its dogs and cars look swapped)",
        values=dict(cub=87.5, nabirds=82.0, flowers=98.0, dogs=74.2, cars=90.2, average_accuracy=86.38),
    )
}
