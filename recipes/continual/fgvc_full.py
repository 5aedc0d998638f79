"""Full fine-tuning on the five sets of FGVC, weights of its own for each.

Command:  mtpeft continual fgvc_full --set stream.tasks.cub.data.root=/data/CUB_200_2011
Result:   dry run only: it needs the data and the backbone's weights
Duration: 5 times 100 epochs of 1,000 to 21,000 images; a day on one GPU

VPT's baseline chooses rate and decay for each set; here one of each for all.
"""

_base_ = "fgvc.py"
method = dict(_delete_=True, name="full")
training = dict(optimizer=dict(lr=1e-4))
