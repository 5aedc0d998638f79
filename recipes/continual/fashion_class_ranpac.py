"""RanPAC on Fashion-MNIST, two new classes at a time: adapters of the first task, then a ridge on random features, by sums alone.

Command:  mtpeft continual fashion_class_ranpac
Result:   average accuracy 77.3 %, forgetting 12.3 points (seed 0, CPU); the linear probe that sees all classes at once: 76 %
Duration: about 20 seconds on 2 cores
"""

_base_ = "_fashion.py"
method = dict(name="adaptformer", bottleneck_dim=16)
sharing = "shared"
stream = dict(
    type="class_incremental",
    head=dict(name="growing", kind="cosine", scale=10.0, classifier=dict(name="ranpac", projection=2000)),
)
training = dict(loss="local_cross_entropy")
plugins = [dict(type="FirstTasks")]
