"""The one exception that stands for a mistake in what the user gave."""


class UserError(Exception):
    """Bad input, told in one line: which file or flag, what is wrong with it, what to do.

    Commands print the message on stderr and exit with status 2; from Python it is an exception like
    any other.
    """
