"""COCO-Stuff 164k: 171 semantic classes."""

task = dict(
    data=dict(name="coco_stuff", root="data/coco_stuff164k"),
    label="semseg",
    kind="semseg",
    metric="mIoU",
    head=dict(name="segformer"),
)
