"""ImageNet-R, twenty new classes at a time (B0-Inc20), behind one growing head.

Command:  mtpeft continual imagenet_r_inc20 --set stream.data.root=/data/imagenet-r
Result:   dry run only: it needs the data and the backbone's weights
Duration: 10 tasks of 50 epochs of 2,400 images; hours on one GPU

The root has train/ and test/, 24,000 and 6,000 images: the re-split archive of PILOT. Other splits are not comparable.
"""

_base_ = "_split.py"
stream = dict(data=dict(type="ImageNetR", root="data/imagenet-r"), classes_per_task=20)
plugins = [dict(type="LAE", momentum=0.9999, frozen_epochs=30)]
training = dict(epochs=50, optimizer=dict(lr=0.005 * 24 / 256))
published = {
    method: dict(
        source="three class orders (1993, 1996, 1997), ViT-B/16 on ImageNet-21k, as reprinted by later papers (unverified)",
        values=dict(sample_weighted_accuracy=last, sample_weighted_incremental_accuracy=average),
    )
    for method, last, average in (
        ("L2P", 66.49, 72.83),
        ("DualPrompt", 68.5, 72.59),
        ("CODA-Prompt", 75.25, 81.26),
        ("LAE, adapter", 72.66, 78.91),
        ("SLCA", 77.0, 81.17),
    )
}
