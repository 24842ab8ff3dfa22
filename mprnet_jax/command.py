"""What all commands share: flags in, one clear line for a mistake, exit status out.

Status 0 is success, 2 a mistake of the user's (one line on stderr, no traceback); anything else is
a defect and keeps its traceback. What goes wrong while flags are read is taken for the mistake of a
config file, which is Python.
"""

import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from mprnet_jax.errors import UserError

BUCKETS = ("gs://", "s3://")
CONFIG_MODULE = "config_config"  # what ml_collections calls a config file as a module


def run(main: Callable[[], None], needed: Sequence[flags.FlagHolder] = ()) -> None:
    """Parses sys.argv into absl flags, of which some are needed, calls `main`, and exits."""
    program = f"{sys.modules['__main__'].__spec__.name}"

    def refuse(message: str) -> None:
        print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: threads of libraries may wait for a disk or a host that will never answer.
        os._exit(2)

    def parse(argv: list[str]) -> list[str]:
        if "--help" in argv[1:] or "-h" in argv[1:]:
            print(sys.modules["__main__"].__doc__)
            print(flags.FLAGS.main_module_help())
            sys.exit(0)
        try:
            rest = flags.FLAGS(argv)
        except (UserError, OSError) as error:
            refuse(str(error))
        except Exception as error:
            refuse(wrong_in_config(error))
        missing = [
            f"--{flag.name}"
            for flag in needed
            if not flags.FLAGS[flag.name].present or flag.value in ("", [])
        ]
        if missing:
            refuse(f"{', '.join(missing)}: needed, see --help")
        for name in flags.FLAGS:
            value = flags.FLAGS[name].value
            if isinstance(value, float) and not math.isfinite(value):
                refuse(f"--{name}={value}: must be a finite number")
            if isinstance(value, str) and value.startswith(BUCKETS):
                refuse(f"--{name}={value}: is no path; mount the bucket and name its folder")
        if rest[1:]:
            refuse(f"unexpected argument {rest[1]!r}; every argument is a flag, see --help")
        logging.set_verbosity(logging.WARNING)
        return rest

    def call(_: list[str]) -> None:
        try:
            main()
        except UserError as error:
            refuse(str(error))

    app.run(call, flags_parser=parse)


def wrong_in_config(error: Exception) -> str:
    """What is wrong with a flag, with a field of a config, or in a config file."""
    cause = error
    while cause:  # the libraries between raise errors of their own
        lines = [
            (frame.f_code.co_filename, line)
            for frame, line in traceback.walk_tb(cause.__traceback__)
            if frame.f_globals.get("__name__") == CONFIG_MODULE
        ]
        if lines:
            return "{}, line {}: {}: {}".format(*lines[-1], type(cause).__name__, cause)
        cause = cause.__context__
    if isinstance(error, flags.Error):
        return str(error)
    if isinstance(error, KeyError):  # from ml_collections, for a field that a config lacks
        return f"{error.args[0]}; the fields are in mprnet_jax/config.py"
    return f"--config: {type(error).__name__}: {error}"
