"""Rendered scenes: 9 semantic classes, unseen objects in validation."""

task = dict(
    data=dict(name="scenes"),
    label="semseg",
    kind="semseg",
    metric="mIoU",
    head=dict(name="segformer", embed_dim=64),
)
