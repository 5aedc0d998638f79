"""VPT-Deep with 50 prompts on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_vpt_deep --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

As in VPT: the backbone without drop path, SGD with rates of {25 ... 0.025} (base rates of 50 to 0.05 at a batch of 128) and
decays of {0.01, 0.001, 0.0001, 0}, chosen for each task on 800 and 200 images; here one of each for all. To choose, for one
task:
    mtpeft sweep vtab_vpt_deep --grid training.optimizer.lr=5,0.5,0.05 --set stream.data.select=True --set \\
        "stream.tasks={'svhn': {'data': {'task': 'svhn'}}}"
The number of prompts is from {1, 5, 10, 50, 100, 200}.
"""

_base_ = "vtab.py"
backbone = dict(_delete_=True, name="vit_base_patch16_224.orig_in21k")
method = dict(_delete_=True, name="vpt_deep", num_tokens=50)
training = dict(batch_size=128, optimizer=dict(_delete_=True, type="SGD", lr=0.5, momentum=0.9, weight_decay=1e-3))
