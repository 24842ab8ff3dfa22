"""Runs a command: parses its flags, reports the user's mistakes in one line, and exits.

Exit status 0 means success; 2 a `UserError`, printed on stderr in one line; 130 Ctrl-C, likewise; 1
a bug, with its traceback. `--debug` prints the traceback behind a `UserError` too.
"""

import contextlib
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from mprnet_jax import console, paths, recipes
from mprnet_jax.errors import UserError

PACKAGE = os.path.join(os.path.dirname(os.path.realpath(__file__)), "")

DEBUG = flags.DEFINE_bool("debug", False, "Prints the traceback behind an error message.")


def run(
    main: Callable[[], None],
    required: Sequence[flags.FlagHolder] = (),
    rest: flags.FlagHolder | None = None,
) -> None:
    """Parses sys.argv into absl flags, calls `main` and exits.

    Args:
        main: the command.
        required: flags that must not be empty; those without a default must be given.
        rest: a flag with several values, which takes the arguments that follow no flag too: shells
            turn `--input *.jpg` into such.
    """
    flags.FLAGS.set_gnu_getopt()  # flags may follow other arguments

    def parse(argv: list[str]) -> list[str]:
        if "--help" in argv[1:] or "-h" in argv[1:]:
            print(sys.modules["__main__"].__doc__)
            print(flags.FLAGS.main_module_help())
            print(flags.FLAGS.module_help(__name__))
            sys.exit(0)
        try:
            arguments = flags.FLAGS(argv)
        except Exception as error:  # reason: a config file is the user's code
            if message := flag_error(error, config_file(argv)):
                exit_with(message, error)
            raise
        if rest is not None:
            flags.FLAGS[rest.name].value = [*rest.value, *arguments[1:]]
        check_flags(required)
        if arguments[1:] and rest is None:
            exit_with(f"unexpected argument {arguments[1]!r}; every argument is a flag, see --help")
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.WARNING)  # else `app.run` sets INFO
        return arguments

    def call(_: list[str]) -> None:
        try:
            main()
        except UserError as error:
            exit_with(str(error), error)

    with console.guarded():
        app.run(call, flags_parser=parse)


def exit_with(message: str, error: Exception | None = None) -> NoReturn:
    """Ends the process with status 2 and a message of one line."""
    if error and (DEBUG.value if flags.FLAGS.is_parsed() else "--debug" in sys.argv):
        traceback.print_exception(error)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    console.leave(2, paths.shown(message))


def check_flags(required: Sequence[flags.FlagHolder]) -> None:
    """Exits if a required flag is missing, or if a flag has a value that no flag can have."""
    missing = [f"--{flag.name}" for flag in required if not flag.value]
    if missing:
        exit_with(f"{', '.join(missing)}: required, see --help")
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, float) and not math.isfinite(item):
                exit_with(f"--{name}={item}: must be a finite number")


def flag_error(error: Exception, config: str | None) -> str | None:
    """Returns what is wrong with a flag or in the config file; None if the error has another cause.

    Args:
        error: raised while flags were parsed, during which the config file runs.
        config: the path of the config file, if one was given.
    """
    cause: BaseException | None = error
    while cause and config and not isinstance(error, UserError):
        # absl and ml_collections wrap the config file's error, so look at each error in the chain.
        for frame, line in [*traceback.walk_tb(cause.__traceback__)][::-1]:
            file = os.path.realpath(frame.f_code.co_filename)
            if file == os.path.realpath(config):
                return f"{file}, line {line}: {type(cause).__name__}: {cause}"
            if file.startswith(PACKAGE) and file != os.path.realpath(__file__):
                return None  # a bug
        cause = cause.__context__
    if isinstance(error, UserError | OSError | flags.Error):
        return str(error)
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    raised_by = frame.f_globals.get("__name__", "").split(".")[0]
    if isinstance(error, KeyError) and raised_by == "ml_collections":  # --config.FIELD
        return f"{error.args[0]}; the fields are in mprnet_jax/config.py"
    return None


def config_file(argv: Sequence[str]) -> str | None:
    """Returns the path of the config file that --config names in a command line, if any."""
    for argument, following in zip(argv, [*argv[1:], ""]):
        name, _, value = argument.partition("=")
        if name in ("--config", "-config"):
            with contextlib.suppress(UserError):
                return str(recipes.find(value or following)[0])
    return None
