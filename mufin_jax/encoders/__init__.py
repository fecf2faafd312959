"""The encoders: networks that turn pixels or token ids into one vector per picture or text.

Each architecture is one file: its config, its module and its table of checkpoint names.
`registry.py` lists them; `pretrained.py` reads checkpoints. No encoder knows of bags or labels.
"""
