"""One shared LoRA on Fashion-MNIST, two new classes at a time behind one growing head.

Command:  mtpeft continual fashion_class_lora
"""

_base_ = "fashion_lora.py"
stream = dict(type="class_incremental")
