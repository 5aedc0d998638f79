"""NYUD-v2: 40 semantic classes."""

task = dict(
    data=dict(name="nyud_mt", root="data/NYUD_MT"),
    label="semseg",
    kind="semseg",
    metric="mIoU",
    head=dict(name="segformer"),
)
