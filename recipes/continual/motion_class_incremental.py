"""Six camera motions, two at a time, behind one growing head: no task is known at test time.

Command:  mtpeft continual motion_class_incremental
Result:
Duration:
"""

_base_ = "_motion.py"
sharing = "shared"
method = dict(name="st_adapter", bottleneck_dim=64, kernel=[3, 3, 3], position="both", activation="gelu")
stream = dict(
    _delete_=True,
    type="class_incremental",
    data=dict(
        type="motion",
        groups=["pan", "tilt", "zoom"],
        train_per_class=200,
        test_per_class=40,
        frames=8,
        size=16,
        augment=dict(scale=[0.8, 1.0], ratio=[0.9, 1.1]),
        cache_bytes=1_000_000_000,
    ),
    order=[0, 1, 4, 5, 2, 3],
    num_tasks=3,
)
rows = dict(
    one_after_another=dict(plugins=[]),
    replay=dict(plugins=[dict(type="ReplayPlugin", mem_size=120)]),
)
