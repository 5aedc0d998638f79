"""ST-Adapter on Something-Something v2: ViT-B/16 with CLIP's weights, 8 frames, adapters before attention and MLP.

Command:  mtpeft continual ssv2_st_adapter --set stream.data.root=/data/something
Result:   dry run only: it needs the data and CLIP's weights. The paper reports 67.1 % (8 frames, three crops)
Duration: 50 epochs of 169,000 clips; for several GPUs' worth of time

As in the authors' script: two adapters of width 384 per block, 50 epochs, 2 of them warm-up, batches of 64 at 1e-3 x 64 / 256,
weight decay 0.01, three crops. Different: colour and brightness are changed in place of RandAugment; biases get no weight
decay; the frames' class tokens are averaged behind the last norm, not before it; and there is no half precision (`training.amp`).
"""

_base_ = "_video.py"
method = dict(name="st_adapter", bottleneck_dim=384, kernel=(3, 1, 1), position="both")
stream = dict(
    data=dict(
        type="something_v2",
        root="data/something_v2",
        sampling="segment",
        crops=3,
        augment=dict(brightness=0.2, contrast=0.2, saturation=0.2),
    )
)
training = dict(epochs=50, warmup=2 / 50, optimizer=dict(lr=2.5e-4, weight_decay=0.01))
