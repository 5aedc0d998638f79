"""PASCAL-Context: 6 human parts and background, on images with annotated persons."""

task = dict(
    data=dict(name="pascal_mt", root="data/PASCAL_MT"),
    label="human_parts",
    kind="parts",
    metric="mIoU",
    head=dict(name="segformer"),
)
