"""Runs a command: parses its flags, reports the user's mistakes in one line, and exits.

Exit status 0 means success; 2 a `UserError`, printed on stderr in one line; 130 Ctrl-C; 1 a bug,
with its traceback. `--debug` prints the traceback behind a `UserError` too.
"""

import contextlib
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from mprnet_jax import console
from mprnet_jax.errors import UserError
from mprnet_jax.recipes import find_recipe

BUCKETS = ("gs://", "s3://")
PACKAGE = os.path.join(os.path.dirname(os.path.realpath(__file__)), "")

DEBUG = flags.DEFINE_bool("debug", False, "Prints the traceback behind an error message.")


def run(
    main: Callable[[], None],
    required: Sequence[flags.FlagHolder] = (),
    more: flags.FlagHolder | None = None,
) -> None:
    """Parses sys.argv into absl flags, calls `main` and exits.

    Args:
        main: the command.
        required: flags that must not be empty; those without a default must be given.
        more: a flag with a list of values, which takes arguments that are no flags, too.
    """
    flags.FLAGS.set_gnu_getopt()  # flags may follow other arguments

    def parse(argv: list[str]) -> list[str]:
        if "--help" in argv[1:] or "-h" in argv[1:]:
            print(sys.modules["__main__"].__doc__)
            print(flags.FLAGS.main_module_help())
            print(flags.FLAGS.module_help(__name__))
            sys.exit(0)
        try:
            arguments = flags.FLAGS(with_recipe(argv))
        except Exception as error:  # reason: a config file is the user's code
            if message := flag_error(error, config_file(argv)):
                exit_with(message, error)
            raise
        if more and arguments[1:]:
            flags.FLAGS[more.name].value = [*more.value, *arguments[1:]]
            arguments = arguments[:1]
        check_flags(required)
        if arguments[1:]:
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
    console.leave(2, message)


def check_flags(required: Sequence[flags.FlagHolder]) -> None:
    """Exits if a required flag is missing, or if a flag has a value that no flag can have."""
    missing = [f"--{flag.name}" for flag in required if not flag.value]
    if missing:
        exit_with(f"{', '.join(missing)}: required, see --help")
    for name in flags.FLAGS:
        values = flags.FLAGS[name].value
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, float) and not math.isfinite(value):
                exit_with(f"--{name}={value}: must be a finite number")
            if isinstance(value, str) and value.startswith(BUCKETS):
                exit_with(f"--{name}={value}: is no path; mount the bucket and name its folder")


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
    if isinstance(error, AttributeError) and getattr(error, "name", "") == "get_config":
        return f"--config={config}: {error}"
    return None


def config_index(argv: Sequence[str]) -> int | None:
    """Returns the index of the argument of a command line that holds the value of --config."""
    for index, argument in enumerate(argv):
        name, equals, _ = argument.partition("=")
        if name in ("--config", "-config"):
            if equals:
                return index
            return index + 1 if argv[index + 1 :] else None
    return None


def with_recipe(argv: list[str]) -> list[str]:
    """Returns a command line with the path of the recipe that --config names."""
    index = config_index(argv)
    if index is None:
        return argv
    name, equals, value = argv[index].rpartition("=")
    return [*argv[:index], f"{name}{equals}{find_recipe(value)}", *argv[index + 1 :]]


def config_file(argv: list[str]) -> str | None:
    """Returns the path that --config gives in a command line, without its variant, if any."""
    index = config_index(argv)
    if index is None:
        return None
    with contextlib.suppress(UserError):
        return with_recipe(argv)[index].rpartition("=")[2].split(":")[0]
    return None
