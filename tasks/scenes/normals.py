"""Rendered scenes: surface normals from the geometry."""

task = dict(
    data=dict(name="scenes"),
    label="normals",
    kind="normals",
    metric="mean",
    head=dict(name="segformer", embed_dim=64),
)
