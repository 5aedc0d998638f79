"""Seven tasks of rendered scenes with FAAR: DoRA for all tasks and of each, whose ranks training chooses.

Command:  python tools/train.py recipes/joint/scenes_faar_paper.py

Ranks start at 64 and keep 95 % of their scores at the end of an epoch, as in the paper; its spectral decoders (TS-PD) are
left out. Ours: the scenes, the decoders and the schedule, which are those of all recipes on scenes.

Published on PASCAL-Context with Swin-T (semantic segmentation, human parts, saliency, normals), TS-PD included: 72.02,
61.25, 66.11, 16.35, a multi-task delta of +5.28 % with 3.38 M weights, decoders counted.
"""

_base_ = "_scenes.py"
method = dict(name="faar", rank=64)
