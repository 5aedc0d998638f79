"""Sequential fine-tuning of the whole backbone on Fashion-MNIST, two new classes at a time behind one growing head.

Command:  mtpeft continual fashion_class_full
"""

_base_ = "fashion_full.py"
stream = dict(type="class_incremental")
