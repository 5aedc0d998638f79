"""Seven tasks of rendered scenes with MTLoRA: low-rank updates for all tasks, and of each task in the last block of a stage.

Command:  python tools/train.py recipes/joint/scenes_mtlora.py

A row of `compare_sharing`: decoders read the last stage behind the final norm, as in all its rows (`scenes_mtlora_paper`: as
the authors).
"""

_base_ = "_scenes.py"
method = dict(name="mtlora", rank=8, final_norm=True)
