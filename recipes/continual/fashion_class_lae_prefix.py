"""LAE over its calibrated prefix on Fashion-MNIST, two new classes at a time.

Command:  mtpeft continual fashion_class_lae_prefix
Result:   average accuracy 44.80 %, forgetting 31.83 points
Duration: about 60 CPU seconds

As in the paper: 10 keys and values in the first blocks alone, their attention divided by its own sum, trained scales that start
at 1. Training as in `fashion_class_lae_adapter`.
"""

_base_ = "fashion_class_lae_adapter.py"
method = dict(_delete_=True, name="prefix_tuning", blocks=[0, 1], num_tokens=10, calibrated=True)
