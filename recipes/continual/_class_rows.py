"""Ways of learning classes in a row, for any class-incremental stream: what the papers are compared with."""

_prefix = dict(name="prefix_tuning", num_tokens=5)
_cosine = dict(name="growing", kind="cosine", scale=10.0)
_first = [dict(type="FirstTasks")]
rows = dict(
    full=dict(method=dict(name="full"), training=dict(loss="cross_entropy", optimizer=dict(lr=3e-4)), baselines=True),
    lora=dict(method=dict(name="lora", rank=8), training=dict(loss="cross_entropy", optimizer=dict(lr=2e-3))),
    lora_local=dict(method=dict(name="lora", rank=8), training=dict(optimizer=dict(lr=2e-3))),
    lae=dict(
        method=dict(name="lora", rank=8),
        sharing="averaged",
        training=dict(optimizer=dict(lr=2e-3)),
        plugins=[dict(type="LAE", momentum=0.99, frozen_epochs=1)],
    ),
    l2p=dict(
        method=dict(
            name="vpt_shallow",
            num_tokens=5,
            pool_prompts="alone",
            sharing=dict(name="pool", size=10, top_k=5, start="uniform"),
        ),
        training=dict(optimizer=dict(type="Adam", lr=1e-2, _delete_=True), schedule="constant", warmup=0.0, clip=1.0),
    ),
    dualprompt=dict(
        method=[
            dict(**_prefix, blocks=[0, 1], sharing="shared"),
            dict(**_prefix, blocks=[2, 3, 4], sharing=dict(name="pool", choose="own", from_previous=True)),
        ],
        training=dict(optimizer=dict(type="Adam", lr=1e-2, _delete_=True), schedule="constant", warmup=0.0, clip=1.0),
    ),
    coda=dict(
        method=dict(
            name="prefix_tuning",
            num_tokens=4,
            blocks=[0, 1, 2, 3, 4],
            sharing=dict(name="pool", choose="mix", per_task=10, keys="block", start="orthogonal"),
        ),
        training=dict(optimizer=dict(type="Adam", lr=5e-3, _delete_=True)),
    ),
    inflora=dict(
        method=dict(name="lora", rank=8, sites=["k", "v"]),
        sharing="accumulated",
        training=dict(optimizer=dict(lr=2e-3)),
        plugins=[dict(type="InfLoRA")],
    ),
    sd_lora=dict(
        method=dict(name="lora", rank=8, sharing=dict(name="accumulated", magnitudes=0.8)),
        training=dict(optimizer=dict(lr=2e-3)),
    ),
    lora_pm=dict(
        method=dict(name="lora", rank=8, sites=["k", "v"]),
        sharing="accumulated",
        training=dict(optimizer=dict(lr=2e-3)),
        plugins=[dict(type="PerturbAndMerge")],
    ),
    slca=dict(
        method=dict(name="full"),
        training=dict(optimizer=dict(lr=3e-5), head_lr=3e-3),
        plugins=[dict(type="ClassifierAlignment")],
    ),
    slca_lora=dict(
        method=dict(name="lora", rank=8),
        training=dict(optimizer=dict(lr=1e-3)),
        plugins=[dict(type="ClassifierAlignment")],
    ),
    simplecil=dict(
        method="linear_probe",
        stream=dict(head=dict(name="growing", classifier=dict(name="prototypes", features="frozen"))),
        plugins=[dict(type="FirstTasks", number=0)],
    ),
    aper=dict(
        method=dict(name="adaptformer", bottleneck_dim=16),
        stream=dict(head=dict(**_cosine, classifier=dict(name="prototypes", features="both"))),
        plugins=_first,
    ),
    ranpac=dict(
        method=dict(name="adaptformer", bottleneck_dim=16),
        stream=dict(head=dict(**_cosine, classifier=dict(name="ranpac", projection=2000))),
        plugins=_first,
    ),
    ease=dict(
        method=dict(name="adaptformer", bottleneck_dim=16),
        sharing="per_task",
        stream=dict(head=dict(**_cosine, classifier=dict(name="ease"))),
    ),
    replay=dict(
        method=dict(name="lora", rank=8),
        training=dict(loss="cross_entropy", optimizer=dict(lr=2e-3)),
        plugins=[dict(type="ReplayPlugin", mem_size=100000)],
    ),
)
del _prefix, _cosine, _first
