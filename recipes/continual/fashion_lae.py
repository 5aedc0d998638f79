"""LAE over a shared LoRA on five Fashion-MNIST tasks.

Command:  mtpeft continual fashion_lae
"""

_base_ = "fashion_lora.py"
plugins = [dict(type="LAE", momentum=0.99, frozen_epochs=1)]
