"""Which way does the camera move? Three tasks in a row, one set of adapters: what sees frames apart, and what sees time.

Command:  mtpeft continual motion_stream
          (the same command again goes on; `--set training.epochs=2` changes all rows)
Result:   (seed 0) average accuracy 49.6 % with frames averaged, 50.0 % with `lora`, 90.4 % with `st_adapter`, 79.2 % with `aim`;
          the last two forget 10 and 26 points
Duration: 9 minutes on 2 cores, of which half a minute makes the clips on first use
"""

_base_ = "_motion.py"
sharing = "shared"
stream = dict(
    type="task_incremental",
    head=dict(name="video_linear"),
    tasks=dict(
        pan=dict(classes=["pan_left", "pan_right"]),
        tilt=dict(classes=["tilt_up", "tilt_down"]),
        zoom=dict(classes=["zoom_in", "zoom_out"]),
    ),
)
baselines = False
rows = dict(
    mean_of_frames=dict(method=dict(name="linear_probe"), baselines=True),
    lora=dict(method=dict(name="lora", rank=8)),
    st_adapter=dict(
        method=dict(name="st_adapter", bottleneck_dim=64, kernel=[3, 3, 3], position="both", activation="gelu")
    ),
    aim=dict(method=dict(name="aim", embed_std=1.0, drop_path=0.0), training=dict(optimizer=dict(lr=3e-3))),
)
