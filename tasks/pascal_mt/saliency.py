"""PASCAL-Context: distilled saliency."""

task = dict(
    data=dict(name="pascal_mt", root="data/PASCAL_MT"),
    label="saliency",
    kind="saliency",
    metric="mIoU",
    head=dict(name="segformer"),
)
