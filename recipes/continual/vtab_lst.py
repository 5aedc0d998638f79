"""LST with r = 8 on the 19 tasks of VTAB-1k, weights of its own for each.

Command:  mtpeft continual vtab_lst --set stream.data.root=/data/vtab-1k
Result:   dry run only: it needs the data and the backbone's weights
Duration: 19 times 100 epochs of 1,000 images; some hours on one GPU

Its authors have no images of this set; the published value is a later run, and rate and decay are usual ones.
"""

_base_ = "vtab.py"
method = dict(_delete_=True, name="lst")
training = dict(batch_size=32, optimizer=dict(weight_decay=0.05))
