"""Cityscapes: 19 semantic classes."""

task = dict(
    data=dict(name="cityscapes", root="data/cityscapes"),
    label="semseg",
    kind="semseg",
    metric="mIoU",
    head=dict(name="segformer"),
)
