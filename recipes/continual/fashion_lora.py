"""Sequential training of one shared LoRA on five Fashion-MNIST tasks.

Command:  mtpeft continual fashion_lora
Result:   average accuracy 87.1 %, forgetting 13.0 points (seed 0, CPU)
Duration: about 40 seconds on 2 cores
"""

_base_ = "_fashion.py"
method = dict(name="lora", rank=8)
sharing = "shared"
training = dict(optimizer=dict(lr=2e-3))
