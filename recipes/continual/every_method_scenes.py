"""One dense task, the surface normals of 320 rendered scenes, 120 steps: what every method is tried on.

Command:  mtpeft sweep every_method_scenes --grid method=all --seeds 3
Result:   METHODS.md, "What each learns", whose sweeps give some methods options of their own
Duration: about 20 seconds a run on one core
"""

_base_ = "_every_method.py"
backbone = dict(name="swin_mini_patch4_64")
stream = dict(
    type="dense_incremental",
    data=dict(name="scenes", train_size=320, val_size=80),
    head=dict(name="segformer", embed_dim=32),
    tasks=["normals"],
)
training = dict(epochs=3, batch_size=8, optimizer=dict(lr=2e-3), clip=5.0, eval_batch_size=40)
