"""V-PEFT on HMDB51: PATT on keys and values, and an adapter in parallel to the MLP, on an image ViT-B/16.

Command:  mtpeft continual hmdb51_vpeft --set stream.data.root=/data/hmdb51
Result:   dry run only: it needs the data and CLIP's weights. The paper reports 71.9 % on Video Swin-B, 57.2 % on VideoMAE ViT-B
Duration: 70 epochs of 3,570 clips; some hours on one GPU

As in the paper's ViT-B: widths 32 and 64, scales 0.8 and 0.1, adapters fed with the normed input, SGD without weight decay, 0.1
x 8 / 256 for batches of 8, 70 epochs, 10 of them warm-up, 8 frames, every second one. Different, so that its numbers are no
yardstick: an image ViT-B/16 stands for the paper's backbones, which were trained on video, and frames meet in the head alone.
"""

_base_ = "_video.py"
method = [
    dict(name="patt", bottleneck_dim=32, mode="kv", scale=0.8),
    dict(name="adaptformer", sites=("parallel_mlp_ln",), bottleneck_dim=64, scale=0.1, dropout=0.0),
]
stream = dict(
    data=dict(type="hmdb51", root="data/hmdb51", fold=1, sampling="dense", stride=2, views=3),
    head=dict(dropout=0.0),
)
training = dict(
    epochs=70,
    batch_size=8,
    optimizer=dict(_delete_=True, type="SGD", lr=0.1 * 8 / 256, momentum=0.9, weight_decay=0.0),
    warmup=10 / 70,
)
