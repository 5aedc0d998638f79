"""Seven tasks of rendered scenes with MTLoRA as its authors have it: decoders read the last stage without the final norm.

Command:  python tools/train.py recipes/joint/scenes_mtlora_paper.py

As in the authors' code: rank 64 (their largest), task rank 4, scale 4, dropout 0.05; patch embedding, norms, position tables
and patch merging are trained. Ours: the scenes, the decoders and the schedule, which are those of all recipes on scenes.
"""

_base_ = "_scenes.py"
method = dict(name="mtlora", rank=64, task_rank=4, scale=4.0, dropout=0.05)
