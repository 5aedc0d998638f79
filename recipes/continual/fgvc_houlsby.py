"""Adapters with r = 8 on the five sets of FGVC, weights of its own for each.

Command:  mtpeft continual fgvc_houlsby --set stream.tasks.cub.data.root=/data/CUB_200_2011
Result:   dry run only: it needs the data and the backbone's weights
Duration: 5 times 100 epochs of 1,000 to 21,000 images; a day on one GPU

As in V-PETL Bench. VPT chooses rate and decay for each set; here one of each for all.
"""

_base_ = "fgvc.py"
method = dict(_delete_=True, name="houlsby", bottleneck_dim=8)
published = {
    "Adapter": dict(
        source="VPT's run of adapters",
        values=dict(cub=87.1, nabirds=84.3, flowers=98.5, dogs=89.8, cars=68.6, average_accuracy=85.66),
    )
}
