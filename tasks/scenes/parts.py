"""Rendered scenes: 8 parts of arms, quadrupeds and vehicles, and 0 elsewhere."""

task = dict(
    data=dict(name="scenes"),
    label="parts",
    kind="parts",
    metric="mIoU",
    head=dict(name="segformer", embed_dim=64),
)
