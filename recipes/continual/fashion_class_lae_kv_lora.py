"""LAE over its own LoRA on Fashion-MNIST, two new classes at a time: on keys and values, with trained scales.

Command:  mtpeft continual fashion_class_lae_kv_lora
Result:   average accuracy 44.67 %, forgetting 45.67 points
Duration: about 60 CPU seconds

As in the paper: rank 5 in the first blocks alone, a scale of each product that starts at 1.
Training as in `fashion_class_lae_adapter`.
"""

_base_ = "fashion_class_lae_adapter.py"
method = dict(_delete_=True, name="lora", sites=["k", "v"], blocks=[0, 1], rank=5, learnable_scale=True)
