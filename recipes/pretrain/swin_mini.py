"""The embedded pyramid swin_mini_patch4_64, for dense work, from synthetic images alone.

Command:  python tools/pretrain.py recipes/pretrain/swin_mini.py --set output=mtpeft/backbones/weights
Result:   the packaged weights and their card, mtpeft/backbones/weights/swin_mini_patch4_64.md, with all measured numbers
Duration: 3 minutes of drawing images (once), then half an hour of training on 1 busy core, less on an idle one

The only rendered objects are pybullet's random ones 0 to 239: no robot and no other named object, so that scenes made
of robots and of random objects from 300 on are new to the weights.
"""

model = "swin_mini_patch4_64"
seed = 0
output = "runs/pretrain/swin_mini"

data = dict(
    categories=dict(ifs=40, contours=40, parts=80, textures=50, strokes=20, random_objects=240),
    instances=60,
    size=64,
    workers=2,
    cache="~/.cache/mtpeft",
)

train = dict(
    epochs=3,
    batch_size=64,
    learning_rate=1.5e-3,
    weight_decay=0.05,
    warmup=0.05,
    label_smoothing=0.1,
    patch_drop=0.0,
    gray=0.3,
    paste=0.5,
    classification=0.3,
    thumbnail=0.5,
    gradients=1.0,
    relief=1.0,
    threads=1,
)

probe = dict(fashion_mnist="/usr/share/datasets/fashion-mnist", scenes=(400, 200), random_seeds=(0, 1, 2))
