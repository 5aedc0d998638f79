"""Adapters with r = 8 on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_houlsby --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

As NOAH runs adapters: one behind the MLP of each block.
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="houlsby", sites=("after_mlp",), bottleneck_dim=8)
published = {
    "Adapter": dict(
        source="Zhang et al. 2022 (NOAH's run of adapters), mean of the 19 tasks", values=dict(average_accuracy=71.44)
    )
}
