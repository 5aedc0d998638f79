"""AIM on Diving-48: ViT-B/16 with CLIP's weights, 32 frames.

Command:  mtpeft continual diving48_aim --set stream.data.root=/data/diving48
Result:   dry run only: it needs the data and CLIP's weights. The paper reports 88.9 %
Duration: 50 epochs of 15,000 clips; for several GPUs' worth of time

As in the paper: joint scale 0.5, learning rate 3e-4 and weight decay 0.05 for batches of 64, drop path 0.2, 32 frames. Ours: 50
epochs, 3 of them warm-up, frames spread over the dive, and three crops in testing. Different: biases get no weight decay, and
there is no half precision (`training.amp`).
"""

_base_ = "_video.py"
method = dict(name="aim", num_frames=32, reduction=4, joint_scale=0.5, drop_path=0.2)
stream = dict(data=dict(type="diving48", root="data/diving48", frames=32, sampling="segment", crops=3))
training = dict(epochs=50, warmup=3 / 50, eval_batch_size=4)
