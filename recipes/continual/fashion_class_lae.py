"""LAE over a shared LoRA on Fashion-MNIST, two new classes at a time behind one growing head.

Command:  mtpeft continual fashion_class_lae
Result:   average accuracy 52.0 %, forgetting 18.0 points (seed 0, CPU)
Duration: about 40 seconds on 2 cores
"""

_base_ = "fashion_lae.py"
stream = dict(type="class_incremental")
