"""PASCAL-Context: 21 semantic classes."""

task = dict(
    data=dict(name="pascal_mt", root="data/PASCAL_MT"),
    label="semseg",
    kind="semseg",
    metric="mIoU",
    head=dict(name="segformer"),
)
