"""PASCAL VOC 2012: 21 semantic classes."""

task = dict(
    data=dict(name="voc2012", root="data/VOCdevkit/VOC2012"),
    label="semseg",
    kind="semseg",
    metric="mIoU",
    head=dict(name="segformer"),
)
