"""Thirty objects with all their images, then five new ones at a time of which five images are there: one shared LoRA.

Command:  mtpeft continual objects_few_shot
Result:   average accuracy 6.9 %, forgetting 53.4 points; class means of frozen features 19.6 % (seed 0, CPU)
Duration: about 2 minutes on 2 cores
"""

_base_ = "_objects.py"
stream = dict(type="class_incremental", classes_per_task=[30, 5, 5, 5, 5], order_seed=1993, shots=5)
training = dict(epochs=6, batch_size=16)
