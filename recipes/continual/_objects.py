"""What the streams of rendered objects share: the embedded backbone, fifty things that it never saw, one schedule.

Objects of pybullet, 60 training and 20 test images of each, from other sides: `mtpeft/data/objects`. They are rendered on first
use (pip install "mtpeft[sim]").
"""

seed = 0
backbone = dict(name="vit_mini_patch4_32")
method = dict(name="lora", rank=8)
sharing = "shared"
stream = dict(data=dict(type="Objects"))
training = dict(
    epochs=3,
    batch_size=32,
    optimizer=dict(type="AdamW", lr=5e-3, weight_decay=0.01),
    schedule="cosine",
    warmup=0.1,
)
