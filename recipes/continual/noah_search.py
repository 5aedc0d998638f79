"""NOAH on Fashion-MNIST: a supernet of prompts, low-rank updates and adapters, a search for their sizes, the subnet anew.

Command:  mtpeft continual noah_search
Result:   found on validation data: 78.5 % with 14,739 weights; the subnet trained anew: accuracy 75.7 % (seed 0, CPU)
Duration: some minutes on 2 cores

The stages are runs in the folders `supernet`, `search` and `subnet`; killed in any of them, the same command goes on. The paper's
settings are those of `vtab_noah`.
"""

_base_ = "_fashion.py"
method = dict(name="noah")
stream = dict(num_tasks=1, train_per_class=100, test_per_class=100, validation=dict(share=0.2))
training = dict(epochs=20, optimizer=dict(lr=1e-3, weight_decay=1e-4))
baselines = False
search = dict(
    sizes=[1, 5, 10],
    depths=[2, 4, 6],
    limit=40_000,
    population=16,
    parents=5,
    generations=5,
    mutants=8,
    crossovers=8,
    retrain=dict(training=dict(epochs=10, optimizer=dict(lr=2e-3))),
)
