"""Seventeen ways of learning Fashion-MNIST two classes at a time.

Command:  mtpeft continual compare_class_incremental
Result:
Duration:
"""

_base_ = ["_fashion.py", "_class_rows.py"]
sharing = "shared"
stream = dict(type="class_incremental")
baselines = False
training = dict(loss="local_cross_entropy")
