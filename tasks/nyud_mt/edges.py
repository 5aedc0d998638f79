"""NYUD-v2: semantic edges, matched within 0.011 of the diagonal."""

task = dict(
    data=dict(name="nyud_mt", root="data/NYUD_MT"),
    label="edges",
    kind="edges",
    metric="odsF",
    head=dict(name="segformer"),
)
