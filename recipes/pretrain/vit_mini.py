"""The embedded backbone vit_mini_patch4_32 from synthetic images alone.

Command:  python tools/pretrain.py recipes/pretrain/vit_mini.py --set output=mtpeft/backbones/weights
Result:   the packaged weights and their card, mtpeft/backbones/weights/vit_mini_patch4_32.md, with all measured numbers
Duration: 2 minutes of drawing images (once), then half an hour of training on 2 busy cores, less on idle ones
"""

model = "vit_mini_patch4_32"
seed = 0
output = "runs/pretrain/vit_mini"

data = dict(
    categories=dict(ifs=100, contours=80, parts=160, textures=60, strokes=60, objects=258),
    instances=60,
    size=32,
    workers=2,
    cache="~/.cache/mtpeft",
)

train = dict(
    epochs=4,
    batch_size=64,
    learning_rate=1e-3,
    weight_decay=0.05,
    warmup=0.1,
    label_smoothing=0.1,
    patch_drop=0.5,
    gray=0.7,
    paste=0.0,
    classification=0.3,
    thumbnail=1.0,
    gradients=1.0,
    relief=0.0,
    threads=2,
)

probe = dict(fashion_mnist="/usr/share/datasets/fashion-mnist", scenes=None, random_seeds=(0, 1, 2))
