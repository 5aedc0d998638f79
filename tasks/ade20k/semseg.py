"""ADE20K: 150 semantic classes."""

task = dict(
    data=dict(name="ade20k", root="data/ADEChallengeData2016"),
    label="semseg",
    kind="semseg",
    metric="mIoU",
    head=dict(name="segformer"),
)
