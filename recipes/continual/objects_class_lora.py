"""One shared LoRA on rendered objects, five new ones at a time behind one growing head.

Command:  mtpeft continual objects_class_lora
Result:   average accuracy 5.8 %, forgetting 76.9 points; frozen features 44.5 % (linear probe), all tasks at once
          about 54 % (seed 0, CPU)
Duration: about 2 minutes on 2 cores, and 20 seconds that render the objects on first use
"""

_base_ = "_objects.py"
stream = dict(type="class_incremental", num_tasks=10, order_seed=1993)
