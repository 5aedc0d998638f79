"""Sequential fine-tuning of the whole backbone on five Fashion-MNIST tasks.

Command:  mtpeft continual fashion_full
Result:   average accuracy 69.9 %, forgetting 35.7 points (seed 0, CPU)
Duration: about 40 seconds on 2 cores
"""

_base_ = "_fashion.py"
method = dict(name="full")
sharing = "shared"
training = dict(optimizer=dict(lr=3e-4))
