"""One task of ten Fashion-MNIST classes, 1,000 training images, 126 steps: what every method is tried on.

Command:  mtpeft sweep every_method_fashion --grid method=all --seeds 3
Result:   METHODS.md, "What each learns", whose sweeps give some methods options of their own
Duration: about 10 seconds a run on one core
"""

_base_ = "_every_method.py"
backbone = dict(name="vit_mini_patch4_32")
stream = dict(
    type="task_incremental",
    data=dict(type="FashionMNIST"),
    num_tasks=1,
    train_per_class=100,
    test_per_class=100,
)
training = dict(epochs=2)
