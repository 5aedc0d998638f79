"""LAE over a shared LoRA on five Fashion-MNIST tasks.

Command:  mtpeft continual fashion_lae
Result:   average accuracy 96.3 %, forgetting 1.3 points (seed 0, CPU)
Duration: about 40 seconds on 2 cores
"""

_base_ = "fashion_lora.py"
sharing = "averaged"
plugins = [dict(type="LAE", momentum=0.99, frozen_epochs=1)]
