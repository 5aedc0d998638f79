"""COCO panoptic annotations as 133 semantic classes."""

task = dict(
    data=dict(name="coco_panoptic", root="data/coco"),
    label="semseg",
    kind="semseg",
    metric="mIoU",
    head=dict(name="segformer"),
)
