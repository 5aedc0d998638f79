"""What the recipes on published video sets share: a ViT-B/16 with CLIP's weights, one task with all classes, AdamW.

The weights come from timm, which downloads them. `stream.data.root` is the folder of the data set, below the working
directory by default. Testing takes the mean of the views' class probabilities.
"""

seed = 0
backbone = dict(name="vit_base_patch16_clip_quickgelu_224.openai")
stream = dict(
    type="task_incremental",
    num_tasks=1,
    data=dict(frames=8, size=224, crop_ratio=1.0, max_bad_share=0.01),
    head=dict(name="video_linear", pool="mean", dropout=0.5),
)
training = dict(
    batch_size=64,
    optimizer=dict(type="AdamW", lr=3e-4, betas=(0.9, 0.999), weight_decay=0.05),
    schedule="cosine",
    eval_batch_size=16,
    workers=8,
    log_every=50,
)
baselines = False
