"""ST-Adapter on UCF101, class-incremental: 51 classes, then five times 10 more, behind one growing head.

Command:  mtpeft continual ucf101_class_incremental --set stream.data.root=/data/ucf101
Result:   dry run only: it needs the data and CLIP's weights
Duration: 6 tasks of 20 epochs, 9,500 clips in all; some hours on one GPU

The split is that of Park et al. (ICCV 2021, arXiv 2203.13611), in an order of our own; the training that of
`k400_st_adapter` at 20 epochs. The adapters are shared by all tasks, and LAE keeps a slow copy of them against forgetting.
"""

_base_ = "_video.py"
method = dict(name="st_adapter", bottleneck_dim=384, kernel=(3, 1, 1), position="pre_mlp")
sharing = "averaged"
plugins = [dict(type="LAE", momentum=0.9999, frozen_epochs=5)]
stream = dict(
    _delete_=True,
    type="class_incremental",
    data=dict(
        type="ucf101",
        root="data/ucf101",
        fold=1,
        frames=8,
        size=224,
        crop_ratio=1.0,
        sampling="segment",
        max_bad_share=0.01,
    ),
    classes_per_task=[51, 10, 10, 10, 10, 10],
    order_seed=0,
)
training = dict(
    epochs=20,
    warmup=0.1,
    optimizer=dict(lr=2.5e-4, weight_decay=0.01),
    loss="local_cross_entropy",
)
