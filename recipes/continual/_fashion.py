"""What all Fashion-MNIST recipes share: the embedded backbone, five tasks of two classes, one schedule."""

seed = 0
backbone = dict(name="vit_mini_patch4_32")
stream = dict(
    type="task_incremental",
    data=dict(type="FashionMNIST"),
    num_tasks=5,
    train_per_class=200,
    test_per_class=75,
)
training = dict(
    epochs=2,
    batch_size=32,
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01),
    schedule="cosine",
    warmup=0.1,
)
