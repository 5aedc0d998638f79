"""Sequential fine-tuning of the whole backbone on Fashion-MNIST, two new classes at a time behind one growing head.

Command:  mtpeft continual fashion_class_full
Result:   average accuracy 19.3 %, forgetting 97.5 points (seed 0, CPU)
Duration: about 40 seconds on 2 cores
"""

_base_ = "fashion_full.py"
stream = dict(type="class_incremental")
