"""BitFit on the five sets of FGVC, weights of its own for each.

Command:  mtpeft continual fgvc_bitfit --set stream.tasks.cub.data.root=/data/CUB_200_2011
Result:   dry run only: it needs the data and the backbone's weights
Duration: 5 times 100 epochs of 1,000 to 21,000 images; a day on one GPU

As in V-PETL Bench, which has a rate for each set: CUB 1e-3, NABirds 2e-4, flowers 1e-3, dogs 2.5e-4, cars 2e-3; here one for
all.
"""

_base_ = "fgvc.py"
method = dict(_delete_=True, name="bitfit")
training = dict(optimizer=dict(lr=1e-3))
