"""PASCAL-Context: borders of its 459 classes, matched within 0.0075 of the diagonal."""

task = dict(
    data=dict(name="pascal_mt", root="data/PASCAL_MT"),
    label="edges",
    kind="edges",
    metric="odsF",
    head=dict(name="segformer"),
)
