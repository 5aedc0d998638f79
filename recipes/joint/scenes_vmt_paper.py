"""Seven tasks of rendered scenes with VMT-Adapter at the size its paper reports.

Command:  python tools/train.py recipes/joint/scenes_vmt_paper.py

On Swin-T with four tasks the paper's 1.13 M weights are met by rho = 4, a scale and a shift of each task on the adapter's output
in all blocks (1,119,120), and the norm before each adapter trained (8,832): 1,127,952. With knowledge extraction on the
bottleneck and all norms it would be 1,117,392. Ours: the scenes, the decoders and the schedule, which are those of all recipes
on scenes.
"""

_base_ = "_scenes.py"
method = [
    dict(name="vmt_adapter", reduction=4, ke_blocks="all", ke_position="output"),
    dict(name="ln_tune", sites=["norm2"], sharing="shared"),
]
