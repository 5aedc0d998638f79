"""Rendered scenes: depth in metres."""

task = dict(
    data=dict(name="scenes"),
    label="depth",
    kind="depth",
    metric="rmse",
    head=dict(name="segformer", embed_dim=64),
)
