"""What all sequences of rendered scenes share: the embedded pyramid, five labels in turn, one schedule."""

seed = 0
backbone = dict(name="swin_mini_patch4_64")
stream = dict(
    type="dense_incremental",
    data=dict(name="scenes", train_size=1200, val_size=200),
    transforms=dict(train=[dict(name="flip"), dict(name="photometric")]),
    head=dict(name="segformer", embed_dim=64),
    tasks=["semseg", "depth", "normals", "saliency", "distance"],
)
training = dict(
    epochs=4,
    batch_size=16,
    optimizer=dict(type="AdamW", lr=5e-3, weight_decay=0.01),
    schedule="cosine",
    warmup=0.1,
    clip=5.0,
    eval_batch_size=50,
)
