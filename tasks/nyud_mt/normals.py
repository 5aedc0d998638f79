"""NYUD-v2: surface normals."""

task = dict(
    data=dict(name="nyud_mt", root="data/NYUD_MT"),
    label="normals",
    kind="normals",
    metric="mean",
    head=dict(name="segformer"),
)
