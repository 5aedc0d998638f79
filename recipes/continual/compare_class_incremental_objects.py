"""Seventeen ways of learning rendered objects five at a time, ten tasks in a row.

Command:  mtpeft continual compare_class_incremental_objects
Result:   not measured as a whole; `objects_class_lora` has one row
Duration: about an hour on 2 cores
"""

_base_ = ["_objects.py", "_class_rows.py"]
stream = dict(type="class_incremental", num_tasks=10, order_seed=1993)
baselines = False
training = dict(loss="local_cross_entropy")
