"""A linear probe on the five sets of FGVC, weights of its own for each.

Command:  mtpeft continual fgvc_linear_probe --set stream.tasks.cub.data.root=/data/CUB_200_2011
Result:   dry run only: it needs the data and the backbone's weights
Duration: 5 times 100 epochs of 1,000 to 21,000 images; a day on one GPU

VPT's baseline chooses rate and decay for each set; these are of its file for CUB, at batches of 512 for its 1,024.
"""

_base_ = "fgvc.py"
backbone = dict(_delete_=True, name="vit_base_patch16_224.orig_in21k")
method = dict(_delete_=True, name="linear_probe")
training = dict(batch_size=512, optimizer=dict(_delete_=True, type="SGD", lr=0.2, momentum=0.9, weight_decay=1e-2))
