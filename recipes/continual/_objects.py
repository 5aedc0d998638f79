"""What the streams of rendered objects share: the embedded backbone, fifty things that it never saw, one schedule.

Objects that come with pybullet (pip install "mtpeft[sim]"), training and test images from different sides, rendered on
first use: `mtpeft/data/objects`.
"""

seed = 0
backbone = dict(name="vit_mini_patch4_32")
method = dict(name="lora", rank=8)
sharing = "shared"
stream = dict(data=dict(type="Objects", train_per_class=60, test_per_class=20))
training = dict(
    epochs=3,
    batch_size=32,
    optimizer=dict(type="AdamW", lr=5e-3, weight_decay=0.01),
    schedule="cosine",
    warmup=0.1,
)
