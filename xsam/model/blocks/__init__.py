"""The stock blocks of X-SAM's network: parameters named as in the published checkpoints.

Each file holds one block of a published model as `transformers` names its parameters, with only the settings
that `xsam.config` allows. They are our own because importing one model class of `transformers` takes longer
than importing PyTorch: see ADR 13.
"""
