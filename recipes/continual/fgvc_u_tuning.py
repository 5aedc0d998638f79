"""U-Tuning, a prefix beside attention and an adapter beside the MLP on the five sets of FGVC, weights of its own for each.

Command:  mtpeft continual fgvc_u_tuning --set stream.tasks.cub.data.root=/data/CUB_200_2011
Result:   dry run only: it needs the data and the backbone's weights
Duration: 5 times 100 epochs of 1,000 to 21,000 images; a day on one GPU

Its training is not published; these are usual settings.
"""

_base_ = "fgvc.py"
method = dict(_delete_=True, name="u_tuning")
training = dict(batch_size=64, optimizer=dict(weight_decay=1e-4))
published = {
    "U-Tuning": dict(
        source="V-PETL Bench, README",
        values=dict(cub=89.2, nabirds=85.4, flowers=99.2, dogs=84.1, cars=92.1, average_accuracy=90.0),
    )
}
