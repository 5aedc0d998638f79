"""NYUD-v2: depth in metres."""

task = dict(
    data=dict(name="nyud_mt", root="data/NYUD_MT"),
    label="depth",
    kind="depth",
    metric="rmse",
    head=dict(name="segformer"),
)
