"""PASCAL-Context: distilled surface normals, on classes that NYUD-v2 has."""

task = dict(
    data=dict(name="pascal_mt", root="data/PASCAL_MT"),
    label="normals",
    kind="normals",
    metric="mean",
    head=dict(name="segformer"),
)
