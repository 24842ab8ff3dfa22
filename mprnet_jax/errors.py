"""The exception for errors that the user can act on, and the text of other exceptions."""


class UserError(Exception):
    """An error the user can act on; one line: which file or flag, what is wrong, what to do.

    Commands print the message on stderr and exit with status 2; from Python it is an exception like
    any other.
    """


def one_line(error: BaseException) -> str:
    """Returns an exception's text in one line of at most 200 characters, or else its type."""
    return " ".join(str(error).split())[:200] or type(error).__name__
