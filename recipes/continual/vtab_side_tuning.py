"""Side-tuning on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_side_tuning --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

VPT's baseline chooses rate and decay for each task; here one of each for all. It is published to be below the linear probe.
"""

_base_ = "vtab.py"
backbone = dict(_delete_=True, name="vit_base_patch16_224.orig_in21k")
method = dict(_delete_=True, name="side_tuning")
training = dict(batch_size=64, optimizer=dict(_delete_=True, type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-2))
published = {
    "Side-tuning": dict(source="VPT's run of side-tuning, mean of the 19 tasks", values=dict(average_accuracy=45.6))
}
