"""VQT with one query of each block on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_vqt --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

The paper has ViT-B/16 of ImageNet-1k, rates of {0.5 ... 0.025} (base rates of 1 to 0.05 at a batch of 128), decays of {0.01,
0.001, 0.0001, 0} and 1, 10 or 20 queries, chosen for each task; here one of each for all.
"""

_base_ = "vtab.py"
backbone = dict(_delete_=True, name="vit_base_patch16_224.augreg_in1k")
method = dict(_delete_=True, name="vqt", num_tokens=1)
training = dict(batch_size=128, optimizer=dict(_delete_=True, type="Adam", lr=0.05, weight_decay=1e-4))
published = {
    "VQT": dict(
        source="Tu, Mai and Chao, CVPR 2023 (VQT), other weights (ImageNet-1k), mean of the 19 tasks",
        values=dict(average_accuracy=65.3),
    )
}
