"""Run first where a command is started in a checkout: is this folder's code what is installed?

`python -m train` and `python tools/prep_imagenet.py` take the file of this folder, and whatever it
imports from the installed `alexnet_dali`. After a plain `pip install .`, that would be a copy.
"""

import signal
import sys
from pathlib import Path

try:
    from alexnet_dali import tools
except ImportError:
    tools = None  # type: ignore[assignment]

_HERE = Path(__file__).resolve().parent
_FOUND = None if tools is None else Path(str(tools.__file__)).resolve().parent
if _FOUND != _HERE:
    print(
        f"error: the code of {_HERE.parent} is not what is installed (found: "
        f"{_FOUND or 'no alexnet_dali'}); run `pip install -e .` there",
        file=sys.stderr,
    )
    sys.exit(2)

# No traceback where Ctrl-C interrupts an import; a command changes that once it runs.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
