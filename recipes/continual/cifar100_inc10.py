"""CIFAR-100, ten new classes at a time (B0-Inc10), behind one growing head.

Command:  mtpeft continual cifar100_inc10 --set stream.data.root=/data/cifar100
Result:   dry run only: it needs the data and the backbone's weights
Duration: 10 tasks of 5 epochs of 5,000 images; an hour on one GPU

The root has cifar-100-python/, as torchvision downloads it. Inc5: --set stream.classes_per_task=5.
"""

_base_ = "_split.py"
stream = dict(data=dict(type="torchvision.CIFAR100", root="data/cifar100"), classes_per_task=10)
published = {
    method: dict(
        source="three class orders (1993, 1996, 1997), ViT-B/16 on ImageNet-21k, as reprinted by later papers (unverified)",
        values=dict(sample_weighted_accuracy=last, sample_weighted_incremental_accuracy=average),
    )
    for method, last, average in (
        ("L2P", 82.76, 88.48),
        ("DualPrompt", 85.56, 90.33),
        ("CODA-Prompt", 86.56, 90.61),
        ("LAE, adapter", 85.59, 89.96),
        ("SLCA", 91.53, 94.09),
    )
}
