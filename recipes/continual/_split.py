"""What class-incremental recipes on published image sets share: LAE over its adapter, classes shuffled by seed 1993.

Images as in PILOT: random crops of 5 to 100 % of the area and flips, tested on the middle 224 of 256 pixels, in [0, 1]. Other
methods: --set method=lora --set sharing=shared --set plugins=[]; other orders: --set stream.order_seed=1996 (and 1997).
"""

seed = 0
backbone = dict(name="vit_base_patch16_224.augreg_in21k")
method = dict(
    name="adaptformer",
    sites=["parallel_attn_ln"],
    blocks=[0, 1, 2, 3, 4],
    bottleneck_dim=5,
    activation="gelu",
    scale=1.0,
    learnable_scale=True,
    dropout=0.0,
)
sharing = "averaged"
plugins = [dict(type="LAE", momentum=0.9999, frozen_epochs=3)]
input = dict(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0], interpolation="bicubic", crop_pct=0.875)
augment = dict(scale=[0.05, 1.0], flip=True)
stream = dict(type="class_incremental", order_seed=1993, order_rng="numpy")
training = dict(
    epochs=5,
    batch_size=24,
    optimizer=dict(type="Adam", lr=0.03 * 24 / 256, weight_decay=0.0),
    loss="local_cross_entropy",
    eval_batch_size=128,
    workers=4,
    log_every=50,
)
