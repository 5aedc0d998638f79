"""A linear probe on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_linear_probe --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

VPT's baseline: batches of 1,024, rates of {200 ... 0.2} (base rates of 50 to 0.05) and decays of {0.01, 0.001, 0.0001, 0},
chosen for each task; here one of each for all, and batches of 512, of which 1,000 images fill two.
"""

_base_ = "vtab.py"
backbone = dict(_delete_=True, name="vit_base_patch16_224.orig_in21k")
method = dict(_delete_=True, name="linear_probe")
training = dict(batch_size=512, optimizer=dict(_delete_=True, type="SGD", lr=1.0, momentum=0.9, weight_decay=0.0))
