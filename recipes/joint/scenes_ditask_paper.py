"""Seven tasks of rendered scenes with DiTASK: singular values of the frozen weights moved by smooth monotone maps.

Command:  python tools/train.py recipes/joint/scenes_ditask_paper.py

As in the released config and code: maps of 64 cells for all tasks and of 4 for a task in the last block of a stage, which act on
the places of the sorted spectrum and start at random, dropout 0.05 on a layer's whole input; patch embedding, norms, position
tables and patch merging are trained, and decoders read the last stage without the final norm. Ours: the scenes, the decoders and
the schedule, which are those of all recipes on scenes.

Published on PASCAL-Context with Swin-T (semantic segmentation, human parts, saliency, normals): 69.66, 62.02, 65.00, 17.10, a
multi-task delta of +3.22 % with 1.61 M weights, decoders not counted.
"""

_base_ = "_scenes.py"
method = dict(name="ditask", cells=64, task_cells=4, acts_on="places", init="uniform", dropout=0.05)
