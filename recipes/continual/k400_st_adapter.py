"""ST-Adapter on Kinetics-400: ViT-B/16 with CLIP's weights, 8 frames, one adapter of width 384 before every MLP.

Command:  mtpeft continual k400_st_adapter --set stream.data.root=/data/kinetics400
Result:   dry run only: it needs the data and CLIP's weights. The paper reports 82.0 % (8 frames, three views)
Duration: 12 epochs of 240,000 clips; for several GPUs' worth of time

As in the authors' script: 12 epochs, 2 of them warm-up, batches of 64 at 1e-3 x 64 / 256, weight decay 0.01, every 16th
frame, three views in time. Different: their short side of 1.0 to 1.15 times 224 pixels before a square crop is here a square
of the area it has in a clip of 4 : 3; biases get no weight decay; the frames' class tokens are averaged behind the last
norm, not before it; and there is no half precision (`training.amp`).
"""

_base_ = "_video.py"
method = dict(name="st_adapter", bottleneck_dim=384, kernel=(3, 1, 1), position="pre_mlp")
stream = dict(
    data=dict(
        type="kinetics",
        root="data/kinetics400",
        sampling="dense",
        stride=16,
        views=3,
        augment=dict(scale=(0.57, 0.75), ratio=(1.0, 1.0)),
    )
)
training = dict(epochs=12, warmup=2 / 12, optimizer=dict(lr=2.5e-4, weight_decay=0.01))
