"""Configs of version 0.1, in the terms of this version."""

from typing import Any

from alexnet_dali.model.config import CONVOLUTIONS

_FULL = ("fc6", "fc7", "fc8")


def in_todays_terms(plain: dict[str, Any]) -> dict[str, Any]:
    """A config as in YAML or in a checkpoint; one of this version stays as it is.

    Version 0.1 had lists of numbers for layers, and six numbers of kernels for a sixth convolution.
    ValueError for a sixth convolution that this version does not have.
    """
    model = dict(plain.get("model") or {})
    names: tuple[str, ...] = (*CONVOLUTIONS, *_FULL)
    if len(model.get("kernels", ())) == 6:
        names = (*CONVOLUTIONS, "conv6", *_FULL)
        _replace_sixth(model)
    for key in ("init_std", "init_bias"):
        if isinstance(model.get(key), list):
            model[key] = {"default": 0, **dict(zip(names, model[key], strict=True))}
    return {**plain, "model": model}


def _replace_sixth(model: dict[str, Any]) -> None:
    *kernels, sixth = model["kernels"]
    talk = list(model.get("cross_talk", ()))
    if sixth != kernels[-1] or "conv6" not in talk:
        raise ValueError(
            f"model.kernels is {model['kernels']} and model.cross_talk {talk}, as version 0.1 had "
            "them; this version's sixth convolution has as many kernels as conv5 and reads both "
            "columns: use version 0.1 for this network"
        )
    talk.remove("conv6")
    model |= {"kernels": kernels, "cross_talk": talk, "sixth_convolution": True}
