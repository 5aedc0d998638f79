"""DomainNet, one domain after another: the same 345 classes in six styles.

Command:  mtpeft continual domainnet_domains --set stream.data.root=/data/domainnet
Result:   dry run only: it needs the data and the backbone's weights
Duration: 6 tasks of 5 epochs of 34,000 to 121,000 images; a week on one GPU

Settings are ours. Results of other protocols (69 classes a task, all domains) are not comparable.
"""

_base_ = "_split.py"
stream = dict(
    _delete_=True,
    type="domain_incremental",
    data=dict(type="DomainNet", root="data/domainnet"),
    domains={name: dict(domains=name) for name in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")},
)
method = dict(_delete_=True, name="lora", rank=8)
sharing = "shared"
plugins = []
training = dict(batch_size=64, optimizer=dict(lr=1e-3), loss="cross_entropy")
baselines = False
