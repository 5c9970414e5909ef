"""Lets Python processes find GPUs on a machine without any: put this folder on PYTHONPATH.

REHEARSE_GPUS=N        PyTorch finds N GPUs. A process that takes one is stopped.
REHEARSE_FORK_RULE=1   DALI finds a GPU. As always, CUDA fails in the children that a process forks
                       once it has asked for CUDA.
REHEARSE_DYNAMIC=1     a planted fault: files are decoded with DALI's dynamic mode, which asks for
                       GPUs on import.
REHEARSE_CRASH=1       the decoder crashes on files that hold the words KILLS THE DECODER, and the
                       system kills whatever reads files that hold TAKES ALL MEMORY.
"""

import importlib.abc
import os
import sys
from importlib.machinery import PathFinder


def _find_gpus(cuda):
    count = int(os.environ["REHEARSE_GPUS"])

    def refusal():
        def refuse(*arguments, **options):
            raise AssertionError("a GPU was taken, which only tests marked gpu may do")

        return refuse  # a new one each time: torch.compile tells functions apart by identity

    cuda.device_count = lambda: count
    cuda.set_device, cuda.init, cuda._lazy_init = refusal(), refusal(), refusal()
    cuda.get_device_name = lambda number: f"rehearsed GPU {number}"


def _apply_fork_rule(backend):
    asked_by = []

    def call(result):
        def function(*arguments):
            if asked_by and asked_by[0] != os.getpid():
                raise RuntimeError(
                    "CUDA runtime API error cudaErrorInitializationError (3):\ninitialization error"
                )
            asked_by[:] = [os.getpid()]
            return result

        return function

    backend.GetCUDADeviceCount = call(1)
    backend.GetCUDACurrentDevice = call(0)
    backend.SetCUDACurrentDevice = call(None)


def _decode_in_dynamic_mode(decode):
    import numpy as np
    import nvidia.dali.experimental.dynamic as dali
    from nvidia.dali import types

    def decode_together(contents):
        try:
            decoded = dali.decoders.image(
                dali.batch(contents), device="cpu", output_type=types.RGB
            ).evaluate()
            return [np.asarray(pixels) for pixels in decoded.tensors]
        except RuntimeError as error:
            raise decode.resource_error(error) or error from error

    decode.decode_together = decode_together


def _crash_on_some_files(decode):
    import signal

    look = decode.look

    def look_or_crash(data):
        content = data.tobytes()
        if b"KILLS THE DECODER" in content:
            os.kill(os.getpid(), signal.SIGSEGV)
        if b"TAKES ALL MEMORY" in content:
            os.kill(os.getpid(), signal.SIGKILL)
        return look(data)

    decode.look = look_or_crash


_CHANGES = {
    "REHEARSE_GPUS": {"torch.cuda": _find_gpus},
    "REHEARSE_FORK_RULE": {"nvidia.dali.backend_impl": _apply_fork_rule},
    "REHEARSE_DYNAMIC": {"alexnet_dali.pipeline.decode": _decode_in_dynamic_mode},
    "REHEARSE_CRASH": {"alexnet_dali.pipeline.decode": _crash_on_some_files},
}


class _ChangeAfterImport(importlib.abc.MetaPathFinder):
    """Changes each of the given modules as soon as it has been imported."""

    def __init__(self, changes):
        self._changes = changes

    def find_spec(self, name, path, target=None):
        change = self._changes.get(name)
        spec = PathFinder.find_spec(name, path, target) if change else None
        if spec is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                change(module)

            spec.loader.exec_module = exec_module
        return spec


_wanted = {
    name: change
    for variable in _CHANGES
    if variable in os.environ
    for name, change in _CHANGES[variable].items()
}
sys.meta_path.insert(0, _ChangeAfterImport(_wanted))
