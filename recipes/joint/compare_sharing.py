"""Ways to share weights between tasks, under one budget: each recipe is run in turn, in a folder of its own.

Command:  python tools/train.py recipes/joint/compare_sharing.py
          (the same command again goes on; `--set common.training.steps=100` changes all rows)
Result:   a table of trained weights, each task's metric and the multi-task delta (in the README), and one report
Duration: about 50 minutes on one core, and the rendering of the scenes on first use
"""

reference = "joint/scenes_single_full"
rows = [
    "joint/scenes_decoder_only",
    "joint/scenes_single_full",
    "joint/scenes_full",
    "joint/scenes_adaptformer",
    "joint/scenes_adaptformer_shared",
    "joint/scenes_hyperformer",
    "joint/scenes_polyhistor",
    "joint/scenes_polyhistor_lite",
    "joint/scenes_vmt",
    "joint/scenes_vmt_lite",
    "joint/scenes_mtlora",
]
common = dict(training=dict(steps=300, eval_every=150))
