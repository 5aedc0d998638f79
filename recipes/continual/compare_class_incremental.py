"""Seventeen ways of learning Fashion-MNIST two classes at a time, five tasks in a row.

Command:  mtpeft continual compare_class_incremental
Result:   (seed 0, CPU; accuracy over all classes after the last task, its mean over tasks, forgetting)

              full         19.3 %  44.3 %  97.5     l2p          38.9 %  54.8 %  40.8
              lora         19.5    44.0    96.7     dualprompt   39.3    57.1    39.0
              lora_local   25.5    58.3    76.0     coda         49.2    61.8    32.7
              sd_lora      41.7    61.5    42.5     slca_lora    43.5    62.7    45.5
              inflora      47.5    67.5    28.8     slca         52.9    71.6    48.0
              lora_pm      50.8    64.7    18.3     lae          52.0    69.0    18.0
              simplecil    67.7    77.3    14.3     aper         67.7    77.3    14.5
              ease         68.0    77.6    16.0     ranpac       77.3    84.5    12.3
              replay       63.9    75.2    33.3

          frozen features: linear probe over all classes 76.0 %, nearest class mean 67.3 %. What is trained with gradients on one
          task after the other stays below the frozen backbone's class means; classifiers by sums lose what more classes
          cost, and the ridge of RanPAC is above the linear probe that sees all classes at once
Duration: about 20 minutes on 2 cores
"""

_base_ = ["_fashion.py", "_class_rows.py"]
sharing = "shared"
stream = dict(type="class_incremental")
baselines = False
training = dict(loss="local_cross_entropy")
