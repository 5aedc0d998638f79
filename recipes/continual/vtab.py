"""LoRA on the 19 tasks of VTAB-1k, weights of its own for each: their mean beside the published ones.

Command:  mtpeft continual vtab --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

`stream.data.root` has a folder for each task with the lists of the common release. Training as in NOAH, images resized to
224 x 224 without augmentation. `vtab_task` is one task, and selects settings on 800 and 200 images. `vtab_METHOD` has the
settings of a method's paper, or usual ones where it says so; any other, whose paper has none for these tasks, takes those
here: --set method=kadaptation.
"""

_base_ = "_transfer.py"
input = dict(crop_mode="squash", crop_pct=1.0)
stream = dict(
    type="task_incremental",
    data=dict(type="VTAB", root="data/vtab-1k"),
    tasks={
        task: dict(data=dict(task=task))
        for task in (
            "cifar",
            "caltech101",
            "dtd",
            "oxford_flowers102",
            "oxford_iiit_pet",
            "svhn",
            "sun397",
            "patch_camelyon",
            "eurosat",
            "resisc45",
            "diabetic_retinopathy",
            "clevr_count",
            "clevr_dist",
            "dmlab",
            "kitti",
            "dsprites_loc",
            "dsprites_ori",
            "smallnorb_azi",
            "smallnorb_ele",
        )
    },
)
published = {
    method: dict(
        source="V-PETL Bench, README: mean of the 19 tasks, most rows from the methods' papers"
        + ("; other weights (augreg_in21k)" if method == "SSF" else ""),
        values=dict(average_accuracy=value),
    )
    for method, value in (
        ("Full fine-tuning", 65.57),
        ("Linear probe", 52.94),
        ("BitFit", 62.05),
        ("VPT-Shallow", 64.85),
        ("VPT-Deep", 69.43),
        ("AdaptFormer", 72.32),
        ("LoRA", 72.25),
        ("SSF", 73.10),
        ("FacT-TK", 73.23),
        ("LST", 71.70),
    )
}
