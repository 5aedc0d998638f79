"""Sequential fine-tuning of the whole backbone on rendered objects, five new ones at a time behind one growing head.

Command:  mtpeft continual objects_class_full
Result:
Duration:
"""

_base_ = "objects_class_lora.py"
method = dict(_delete_=True, name="full")
training = dict(optimizer=dict(lr=1e-3))
