"""CURL: soft actor-critic from pixels whose encoder also learns by momentum contrast (Laskin et al., ICML 2020).

    python -m examples.reinforcement_learning --help

In reading order: `environment` (pixels out of a task), `replay` (frames stored once), `encoder` and `crops`, `curl`
(the contrastive part, on public names of `moco.contrast` alone), `policy` and `agent` (what Stable-Baselines3's SAC
does otherwise), `runs` (train, resume, evaluate), `curves`, `frames`, `representation` (does an encoder know the
state?), `video`.
"""
