"""Rendered scenes: borders of objects and walls, and steps in depth."""

task = dict(
    data=dict(name="scenes"),
    label="edges",
    kind="edges",
    metric="odsF",
    head=dict(name="segformer", embed_dim=64),
)
