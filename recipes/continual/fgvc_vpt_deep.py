"""VPT-Deep with 50 prompts on the five sets of FGVC, weights of its own for each.

Command:  mtpeft continual fgvc_vpt_deep --set stream.tasks.cub.data.root=/data/CUB_200_2011
Result:   dry run only: it needs the data and the backbone's weights
Duration: 5 times 100 epochs of 1,000 to 21,000 images; a day on one GPU

As in VPT, which chooses rate and decay for each set. To choose one of each for all, on val.json:
    mtpeft sweep fgvc_vpt_deep --grid training.optimizer.lr=5,0.5,0.05 --grid \\
        training.optimizer.weight_decay=1e-2,1e-3,1e-4,0 --set stream.data.select=True
"""

_base_ = "fgvc.py"
backbone = dict(_delete_=True, name="vit_base_patch16_224.orig_in21k")
method = dict(_delete_=True, name="vpt_deep", num_tokens=50)
training = dict(batch_size=128, optimizer=dict(_delete_=True, type="SGD", lr=0.5, momentum=0.9, weight_decay=1e-3))
