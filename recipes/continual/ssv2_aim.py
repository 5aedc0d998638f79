"""AIM on Something-Something v2: ViT-B/16 with CLIP's weights, 8 frames, two temporal adapters per block.

Command:  mtpeft continual ssv2_aim --set stream.data.root=/data/something
Result:   dry run only: it needs the data and CLIP's weights
Duration: 50 epochs of 169,000 clips; for several GPUs' worth of time

As in the paper: a second temporal adapter, joint scale 1.0, 50 epochs, 2.5 of them warm-up, learning rate 3e-4 and weight decay
0.05 for batches of 64, drop path 0.2, no mirror images. Ours: three crops in testing. Different: biases get no weight decay,
and there is no half precision (`training.amp`).
"""

_base_ = "_video.py"
method = dict(name="aim", num_frames=8, reduction=4, joint_scale=1.0, temporal_adapters=2, drop_path=0.2)
stream = dict(data=dict(type="something_v2", root="data/something_v2", sampling="segment", crops=3))
training = dict(epochs=50, warmup=2.5 / 50)
