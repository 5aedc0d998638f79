"""What recipes of transfer to published image tasks share: ViT-B/16 on ImageNet-21k, one head and weights for each task.

The weights come from timm, which downloads them. Any method takes LoRA's place: --set method=ssf.
"""

seed = 0
backbone = dict(name="vit_base_patch16_224.orig_in21k", options=dict(drop_path_rate=0.1), train_mode=True)
method = dict(name="lora", rank=8)
input = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], interpolation="bicubic")
training = dict(
    epochs=100,
    batch_size=64,
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-4),
    schedule="cosine",
    warmup=0.1,
    eval_batch_size=128,
    workers=4,
    log_every=10,
)
baselines = False
