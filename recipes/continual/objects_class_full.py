"""Sequential fine-tuning of the whole backbone on rendered objects, five new ones at a time behind one growing head.

Command:  mtpeft continual objects_class_full
Result:   average accuracy 4.7 %, forgetting 75.3 points (seed 0, CPU)
Duration: about 2 minutes on 2 cores
"""

_base_ = "objects_class_lora.py"
method = dict(_delete_=True, name="full")
training = dict(optimizer=dict(lr=1e-3))
