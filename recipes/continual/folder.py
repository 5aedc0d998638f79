"""One task on a folder of images of your own: train/ and test/ in it, each with a folder per class.

Command:  mtpeft train folder --set stream.data.root=photos --out runs/photos
Result:   that of your images; --set backbone.name=vit_small_patch16_224 takes a larger backbone (its weights are downloaded)
Duration: that of your images
"""

seed = 0
backbone = dict(name="vit_mini_patch4_32")
method = dict(name="lora", rank=8)
stream = dict(type="task_incremental", data=dict(type="ImageFolder", root="images"), num_tasks=1)
augment = dict(flip=True)
training = dict(
    epochs=10,
    batch_size=32,
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01),
    schedule="cosine",
    warmup=0.1,
)
