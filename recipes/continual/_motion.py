"""What the streams of moving clips share: camera motion seen at 16 pixels, and one schedule.

Clips of one kind show the same frames in another order, so neither a frame nor an average of frames tells its two classes
apart. 16 pixels are 16 tokens a frame: a run on a laptop is a matter of minutes.
"""

seed = 0
backbone = dict(name="vit_mini_patch4_32", options=dict(img_size=16))
stream = dict(
    data=dict(
        type="motion",
        groups=["pan", "tilt", "zoom"],
        train_per_class=200,
        test_per_class=40,
        frames=8,
        size=16,
        augment=dict(scale=[0.8, 1.0], ratio=[0.9, 1.1]),
        cache_bytes=1_000_000_000,
    ),
)
training = dict(
    epochs=7,
    batch_size=16,
    optimizer=dict(type="AdamW", lr=5e-3, weight_decay=0.01),
    schedule="cosine",
    warmup=0.1,
    clip=1.0,
    eval_batch_size=80,
)
