"""One shared LoRA on rendered objects, five new ones at a time behind one growing head.

Command:  mtpeft continual objects_class_lora
Result:
Duration:
"""

_base_ = "_objects.py"
stream = dict(type="class_incremental", num_tasks=10, order_seed=1993)
