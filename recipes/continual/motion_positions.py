"""V-PEFT's question on moving clips: at which place in a block does a small trained branch help, and how wide must it be?

Command:  mtpeft continual motion_positions
          (the same command again goes on; `--set training.epochs=2` changes all rows)
Result:   (seed 0) accuracy without a branch 92.5 %; width 8: queries 92.5, keys 95.0, values 95.0, keys and values 96.3, output
          93.8, MLP 90.0, PATT 92.5; width 32: keys and values 96.3, MLP 92.5. One of the 80 test clips is 1.25 points, so all
          of this is within noise: take several seeds and more test clips to rank places
Duration: about 7 minutes on one core, and the making of the clips on first use

Which way does the camera pan? The branch is low-rank on queries, keys, values or attention's output, a bottleneck beside the MLP,
or PATT's on keys and values; the number behind the name is its width. A narrow ST-Adapter lets frames meet, the same in all
rows: the paper's backbones were trained on video, this one was not.
"""

_base_ = "_motion.py"
stream = dict(
    type="task_incremental",
    head=dict(name="video_linear"),
    tasks=dict(pan=dict(classes=["pan_left", "pan_right"])),
)
training = dict(epochs=4)
baselines = False
rows = {
    name: dict(
        method=[
            dict(name="st_adapter", bottleneck_dim=8, kernel=[3, 3, 3], position="pre_attn"),
            *branch,
        ]
    )
    for name, branch in dict(
        none=[],
        q_8=[dict(name="lora", rank=8, sites=["q"])],
        k_8=[dict(name="lora", rank=8, sites=["k"])],
        v_8=[dict(name="lora", rank=8, sites=["v"])],
        kv_8=[dict(name="lora", rank=8, sites=["k", "v"])],
        out_8=[dict(name="lora", rank=8, sites=["proj"])],
        beside_mlp_8=[dict(name="adaptformer", bottleneck_dim=8, scale=1.0)],
        patt_kv_8=[dict(name="patt", bottleneck_dim=8, mode="kv", init="trunc_normal")],
        kv_32=[dict(name="lora", rank=32, sites=["k", "v"])],
        beside_mlp_32=[dict(name="adaptformer", bottleneck_dim=32, scale=1.0)],
    ).items()
}
