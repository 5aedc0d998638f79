"""LAE over its own adapter on Fashion-MNIST, two new classes at a time: beside attention, with GELU and a trained scale.

Command:  mtpeft continual fashion_class_lae_adapter
Result:   average accuracy 47.20 %, forgetting 43.83 points
Duration: about 60 CPU seconds

As in the paper: adapters of width 5 in the first blocks alone, a scale that starts at 1, Adam at a constant rate without weight
decay, local cross-entropy. Ours, for tasks of 26 steps: the rate, momentum 0.99 for 0.9999, and 1 of 2 epochs frozen for 3 of 5.
"""

_base_ = "_fashion.py"
method = dict(
    name="adaptformer",
    sites=["parallel_attn_ln"],
    blocks=[0, 1],
    bottleneck_dim=5,
    activation="gelu",
    scale=1.0,
    learnable_scale=True,
    dropout=0.0,
)
sharing = "averaged"
stream = dict(type="class_incremental")
plugins = [dict(type="LAE", momentum=0.99, frozen_epochs=1)]
training = dict(
    optimizer=dict(_delete_=True, type="Adam", lr=5e-3, weight_decay=0.0),
    schedule="constant",
    warmup=0.0,
    loss="local_cross_entropy",
)
