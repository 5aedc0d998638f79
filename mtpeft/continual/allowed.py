"""Which plugins a recipe may name, what a checkpoint needs of each, and why the rest of Avalanche's are refused.

All that are allowed are right in several processes too (torchrun): what they add to a loss counts by the samples of each
process; what they do to gradients and weights they do to the sums, in every process alike; and their own passes over
data, for importances or samples of a memory, all processes make alike. The batches that `ReplayPlugin` brings are read by
all of them, and each trains its part.
"""

from __future__ import annotations

from dataclasses import dataclass

#: how finely a run can be resumed whose plugin's state ...
STEP = "step"  # ... is plain: it is saved at any step
EXPERIENCE = "experience"  # ... is made again from the stream, or lives within one experience
RESUMED = {STEP: "in the middle of a task", EXPERIENCE: "at the start of a task"}


@dataclass(frozen=True)
class Allowed:
    """One plugin: what it does, and the rule by which a checkpoint keeps its state."""

    text: str
    resumes: str
    #: attributes that are its state
    state: tuple[str, ...] = ()
    #: options that are not a recipe's to set: a bar in the log, a metric that nobody measures
    fixed: tuple[str, ...] = ()
    #: it keeps samples of earlier tasks: a resumed run repeats its end of every finished experience
    memory: bool = False
    #: it watches the metric on validation data
    watches: bool = False
    #: it trains with local cross-entropy, in which samples of earlier tasks have no class
    local_loss: bool = False
    #: it acts when a task has been trained, whatever trained it, in place of a memory, and for one growing head
    aligns: bool = False
    #: it ends the training of later tasks, which a classifier without gradients has to learn
    first: bool = False
    #: why it cannot be used on dense tasks, if it cannot
    not_dense: str = ""


_MIXED = "it mixes images of several tasks in one batch, whose labels differ in shape and unit"

ALLOWED: dict[str, Allowed] = {
    "AGEMPlugin": Allowed(
        "A-GEM: gradients that would raise the loss on a memory are projected",
        EXPERIENCE,
        memory=True,
        not_dense=_MIXED,
    ),
    "ClassifierAlignment": Allowed(
        "SLCA, SSIAT: after each task the head is trained again on features drawn for all classes",
        STEP,
        aligns=True,
        not_dense="it draws features of classes",
    ),
    "EWCPlugin": Allowed(
        "EWC: weights important to earlier tasks are held", STEP, state=("saved_params", "importances")
    ),
    "EarlyStoppingPlugin": Allowed(
        "stops a task when the accuracy on validation data no longer rises",
        EXPERIENCE,
        fixed=("verbose", "metric_name", "mode", "peval_mode"),
        watches=True,
        not_dense="it watches Avalanche's accuracy",
    ),
    "FirstTasks": Allowed(
        "weights learn in the first tasks alone (APER, RanPAC) or never (SimpleCIL); a classifier learns the others",
        STEP,
        first=True,
        not_dense="a classifier tells classes apart",
    ),
    "InfLoRA": Allowed(
        "InfLoRA: branches where the inputs of earlier tasks have nothing, with local cross-entropy",
        STEP,
        state=("vectors", "taken", "built"),
        local_loss=True,
        not_dense="it is made for class labels",
    ),
    "LAE": Allowed(
        "LAE: an online and an offline copy of shared weights, with local cross-entropy",
        STEP,
        local_loss=True,
        not_dense="it takes the larger of two softmax probabilities",
    ),
    "LwFPlugin": Allowed(
        "LwF: distils the model of the task before",
        STEP,
        not_dense="it distils a softmax over the classes of earlier tasks",
    ),
    "MASPlugin": Allowed(
        "MAS: weights the output is sensitive to are held", STEP, state=("params", "importance"), fixed=("verbose",)
    ),
    "PullToEarlier": Allowed(
        "MOS: each task's weights start from the last task's, and are pulled towards the mean of all earlier ones",
        STEP,
        state=("begun",),
    ),
    "PerturbAndMerge": Allowed(
        "perturb and merge: weights scaled at random in training, and merged with the earlier ones in closed form after a task",
        STEP,
        state=("origin", "curvature", "pull", "alphas"),
        not_dense="its Fisher information is that of class labels",
    ),
    "ReplayPlugin": Allowed(
        "replay: a memory of earlier samples in every batch",
        EXPERIENCE,
        fixed=("storage_policy",),
        memory=True,
        not_dense=_MIXED,
    ),
    "Supernet": Allowed("a supernet: at every step another subnet of a method whose sizes are searched", STEP),
    "SynapticIntelligencePlugin": Allowed(
        "SI: weights that lowered earlier losses are held", STEP, state=("ewc_data", "syn_data"), fixed=("device",)
    ),
}

_GENERATOR = "it needs a generator of samples, which no recipe gives"
_PROTOTYPES = "it needs a model that classifies by class means, not by a trained head"
#: the other public classes of `avalanche.training.plugins`
REFUSED: dict[str, str] = {
    "BiCPlugin": "it takes the growing head for several heads",
    "CWRStarPlugin": "it needs a model object and freezes the method's weights; its head cannot grow",
    "CoPEPlugin": "it takes the model's output for features",
    "CurrentDataFeCAMUpdate": _PROTOTYPES,
    "CurrentDataNCMUpdate": _PROTOTYPES,
    "EvaluationPlugin": "every run measures by itself",
    "FeCAMOracle": _PROTOTYPES,
    "FeatureDistillationPlugin": "it needs a model that gives features beside its output",
    "FromScratchTrainingPlugin": "it needs an optimiser of one parameter group",
    "GDumbPlugin": "it trains a copy of the model, which the run would not save",
    "GEMPlugin": "it needs the solver quadprog, which does not come with mtpeft",
    "GSS_greedyPlugin": "it calls the model without telling the task",
    "GenerativeReplayPlugin": _GENERATOR,
    "LFLPlugin": "it needs a model of Avalanche's own",
    "LRSchedulerPlugin": "it needs a scheduler object; training.schedule and training.warmup do its work",
    "MIRPlugin": "it needs torch's own cross-entropy as the criterion, a stream has the loss of each task",
    "MemoryFeCAMUpdate": _PROTOTYPES,
    "MemoryNCMUpdate": _PROTOTYPES,
    "NCMOracle": _PROTOTYPES,
    "PPPloss": "it is a loss, not a plugin",
    "RARPlugin": "it traces the model by torch.fx, which methods that act through hooks do not allow",
    "RWalkPlugin": "its importances divide zero by zero for weights a task does not use, and the loss becomes NaN",
    "SupervisedPlugin": "it is the base class of plugins and does nothing",
    "TrainGeneratorAfterExpPlugin": _GENERATOR,
}
