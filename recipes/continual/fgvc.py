"""LoRA on the five fine-grained data sets of FGVC, weights of its own for each, beside the published values.

Command:  mtpeft continual fgvc --set stream.tasks.cub.data.root=/data/CUB_200_2011
Result:   dry run only: it needs the data and the backbone's weights
Duration: 5 times 100 epochs of 1,000 to 21,000 images; a day on one GPU

Each root has the images and VPT's train.json, val.json and test.json. As in VPT: the shorter side resized to 256, a random crop
of 224, flips, ImageNet's mean and std; as in V-PETL Bench: batches of 128, weight decay 0.05. It tunes the rates one by one.
`fgvc_task` is one of them, for choosing settings. `fgvc_METHOD` has the settings of a method's paper, or usual ones where it says
so; any other, whose paper has none for these sets, takes those here.
"""

_base_ = "_transfer.py"
input = dict(crop_pct=0.875)
augment = dict(random_crop=0.875, flip=True)
stream = dict(
    type="task_incremental",
    data=dict(type="FGVC"),
    tasks=dict(
        cub=dict(data=dict(task="cub", root="data/fgvc/CUB_200_2011")),
        nabirds=dict(data=dict(task="nabirds", root="data/fgvc/nabirds")),
        flowers=dict(data=dict(task="flowers", root="data/fgvc/OxfordFlower")),
        dogs=dict(data=dict(task="dogs", root="data/fgvc/Stanford-dogs")),
        cars=dict(data=dict(task="cars", root="data/fgvc/Stanford-cars")),
    ),
)
training = dict(batch_size=128, optimizer=dict(weight_decay=0.05))
published = {
    method: dict(
        source="V-PETL Bench, README" + ("; other weights (augreg_in21k)" if method == "SSF" else ""),
        values=dict(cub=cub, nabirds=nabirds, flowers=flowers, dogs=dogs, cars=cars, average_accuracy=mean),
    )
    for method, cub, nabirds, flowers, dogs, cars, mean in (
        ("Full fine-tuning", 87.3, 82.7, 98.8, 89.4, 84.5, 88.54),
        ("Linear probe", 85.3, 75.9, 97.9, 86.2, 51.3, 79.32),
        ("BitFit", 87.7, 85.2, 99.2, 86.5, 81.5, 88.02),
        ("VPT-Shallow", 86.7, 78.8, 98.4, 90.7, 68.7, 84.66),
        ("VPT-Deep", 88.5, 84.2, 99.0, 90.2, 83.6, 89.10),
        ("AdaptFormer", 88.4, 84.7, 99.2, 88.2, 81.9, 88.48),
        ("LoRA", 85.6, 79.8, 98.9, 87.6, 72.0, 84.78),
        ("SSF", 89.5, 85.7, 99.6, 89.6, 89.2, 90.72),
    )
}
