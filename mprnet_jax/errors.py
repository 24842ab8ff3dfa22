"""The one exception that stands for a mistake in what the user gave, and others in short."""


class UserError(Exception):
    """Bad input, told in one line: which file or flag, what is wrong with it, what to do.

    Commands print the message on stderr and exit with status 2; from Python it is an exception like
    any other.
    """


def one_line(error: BaseException) -> str:
    """What an exception of a library says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
