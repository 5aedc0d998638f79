"""Seven tasks of rendered scenes with Free Sinewich: one base of weights for all, seen through a sine of each task's frequency.

Command:  python tools/train.py recipes/joint/scenes_free_sinewich_paper.py

Rank 64 and kernels of 3 x 3 as in the paper's largest model; the convolution that its decoders share is left out. Ours: the
scenes, the decoders and the schedule, which are those of all recipes on scenes.

Published on PASCAL-Context with Swin-T (semantic segmentation, human parts, saliency, normals), rank 64: 71.25, 61.38,
66.24, 16.14, a multi-task delta of +5.39 % with 6.53 M weights, decoders counted.
"""

_base_ = "_scenes.py"
method = dict(name="free_sinewich", rank=64)
