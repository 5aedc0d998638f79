"""LAE over a shared LoRA on Fashion-MNIST, two new classes at a time behind one growing head.

Command:  mtpeft continual fashion_class_lae
"""

_base_ = "fashion_lae.py"
stream = dict(type="class_incremental")
