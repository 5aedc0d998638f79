"""Seven tasks of rendered scenes with TADFormer: prompts of all tasks in Swin's windows, filters made by each task's features.

Command:  python tools/train.py recipes/joint/scenes_tadformer_paper.py

Rank 64 and dynamic filters as in the paper's largest model; what is trained besides, and the features that decoders read, as
in `scenes_mtlora_paper`. Ours: the scenes, the decoders and the schedule, which are those of all recipes on scenes.

Published on PASCAL-Context with Swin-T (semantic segmentation, human parts, saliency, normals), rank 64: 70.82, 60.45,
65.88, 16.48, a multi-task delta of +4.24 %.
"""

_base_ = "_scenes.py"
method = dict(name="tadformer", rank=64)
