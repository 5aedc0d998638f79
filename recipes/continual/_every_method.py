"""What the recipes that every method is tried on share: one small task, a fixed number of steps, one rate for all methods."""

seed = 0
method = "lora"
baselines = False
training = dict(
    batch_size=16,
    optimizer=dict(type="AdamW", lr=5e-3, weight_decay=0.01),
    schedule="cosine",
    warmup=0.1,
)
