"""Sequential training of one shared LoRA on five Fashion-MNIST tasks.

Command:  mtpeft continual fashion_lora
"""

_base_ = "_fashion.py"
method = dict(name="lora", rank=8)
sharing = "shared"
training = dict(optimizer=dict(lr=2e-3))
