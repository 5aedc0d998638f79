"""Rendered scenes: normalised distance to the border of the object."""

task = dict(
    data=dict(name="scenes"),
    label="distance",
    kind="distance",
    metric="rmse",
    head=dict(name="segformer", embed_dim=64),
)
