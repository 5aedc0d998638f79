"""The same twenty objects five times, behind another background and under another light each time: one shared LoRA.

Command:  mtpeft continual objects_domains
Result:
Duration:
"""

_base_ = "_objects.py"
stream = dict(
    type="domain_incremental",
    data=dict(objects=20, train_per_class=40),
    domains=dict(
        plain_day=dict(background="plain", light="day"),
        clouds_window=dict(background="clouds", light="window"),
        stripes_lamp=dict(background="stripes", light="lamp"),
        checks_dusk=dict(background="checks", light="dusk"),
        boxes_night=dict(background="boxes", light="night"),
    ),
)
