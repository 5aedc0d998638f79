"""Rendered scenes: objects against the room."""

task = dict(
    data=dict(name="scenes"),
    label="saliency",
    kind="saliency",
    metric="maxF",
    head=dict(name="segformer", embed_dim=64),
)
