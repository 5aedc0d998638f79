"""VPT-Shallow with 50 prompts on the five sets of FGVC, weights of its own for each.

Command:  mtpeft continual fgvc_vpt_shallow --set stream.tasks.cub.data.root=/data/CUB_200_2011
Result:   dry run only: it needs the data and the backbone's weights
Duration: 5 times 100 epochs of 1,000 to 21,000 images; a day on one GPU

As in VPT, which chooses rate and decay for each set. To choose one of each for all, on val.json:
    mtpeft sweep fgvc_vpt_shallow --grid training.optimizer.lr=5,0.5,0.05 --grid \\
        training.optimizer.weight_decay=1e-2,1e-3,1e-4,0 --set stream.data.select=True
"""

_base_ = "fgvc_vpt_deep.py"
method = dict(name="vpt_shallow")
