"""The same twenty objects five times, behind another background and under another light each time: one shared LoRA.

Command:  mtpeft continual objects_domains
Result:   average accuracy 76.5 %, forgetting 9.3 points (seed 0, CPU)
Duration: about 3 minutes on 2 cores, of which half a minute renders the objects on first use
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
