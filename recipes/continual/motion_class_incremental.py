"""Six camera motions, two at a time, behind one growing head: no task is known at test time.

Command:  mtpeft continual motion_class_incremental
Result:   (seed 0) average accuracy 27.9 % one after another (each task forgets the one before), 82.5 % with 120 clips replayed;
          linear probe on averaged frames 21.3 %
Duration: 11 minutes on one core, and the making of the clips on first use
"""

_base_ = "_motion.py"
sharing = "shared"
method = dict(name="st_adapter", bottleneck_dim=64, kernel=[3, 3, 3], position="both", activation="gelu")
stream = dict(type="class_incremental", order=[0, 1, 4, 5, 2, 3], num_tasks=3)
rows = dict(
    one_after_another=dict(plugins=[]),
    replay=dict(plugins=[dict(type="ReplayPlugin", mem_size=120)]),
)
