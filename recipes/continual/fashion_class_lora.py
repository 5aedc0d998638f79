"""One shared LoRA on Fashion-MNIST, two new classes at a time behind one growing head.

Command:  mtpeft continual fashion_class_lora
Result:   average accuracy 19.5 %, forgetting 96.7 points (seed 0, CPU)
Duration: about 40 seconds on 2 cores
"""

_base_ = "fashion_lora.py"
stream = dict(type="class_incremental")
