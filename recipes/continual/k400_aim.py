"""AIM on Kinetics-400: ViT-B/16 with CLIP's weights, 8 frames.

Command:  mtpeft continual k400_aim --set stream.data.root=/data/kinetics400
Result:   dry run only: it needs the data and CLIP's weights. The paper reports 83.9 % (8 frames, three views)
Duration: 30 epochs of 240,000 clips; for several GPUs' worth of time

As in the paper: 30 epochs, 2.5 of them warm-up, learning rate 3e-4 and weight decay 0.05 for batches of 64, drop path 0.2,
three views in time. Different: biases get no weight decay, and there is no half precision (`training.amp`).
"""

_base_ = "_video.py"
method = dict(name="aim", num_frames=8, reduction=4, joint_scale=0.5, drop_path=0.2)
stream = dict(data=dict(type="kinetics", root="data/kinetics400", sampling="dense", stride=16, views=3))
training = dict(epochs=30, warmup=2.5 / 30)
