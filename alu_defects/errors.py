"""The one error that a user can mend, and what a wrong name probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something outside the program is wrong: a file, a folder or a setting.

    The message names what, its value and the mend, in one or two lines; the command line prints it without a traceback.
    """


def of_another_process(error: Exception) -> Exception:
    """The `UserError` of a worker or of one of several training processes; it arrives as the text of a traceback."""
    _, marker, text = str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")
    return UserError(text.strip()) if marker else error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End a sentence on a wrong name: "; did you mean a or b?", or "." where no known name is near."""
    nearest = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(nearest)}?" if nearest else "."
