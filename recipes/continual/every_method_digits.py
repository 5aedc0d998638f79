"""One task of ten handwritten digits, 1,436 training images of 8 x 8 pixels, 90 steps: what every method is tried on.

Command:  mtpeft sweep every_method_digits --grid method=all --seeds 3
Result:   METHODS.md, "What each learns", whose sweeps give some methods options of their own
Duration: about 10 seconds a run on one core
"""

_base_ = "_every_method.py"
backbone = dict(name="vit_mini_patch4_32")
stream = dict(type="task_incremental", data=dict(type="Digits"), num_tasks=1)
training = dict(epochs=1)
