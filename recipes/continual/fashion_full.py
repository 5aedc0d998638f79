"""Sequential fine-tuning of the whole backbone on five Fashion-MNIST tasks.

Command:  mtpeft continual fashion_full
"""

_base_ = "_fashion.py"
method = dict(name="full")
sharing = "shared"
training = dict(optimizer=dict(lr=3e-4))
