"""The one error that a user can fix, and what a wrong name probably meant."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """Something outside the program is wrong: a file, a folder or a setting.

    The message names what, its value and the fix, in a line or two; the command line prints it without a traceback.
    """


@contextmanager
def reraise_user_errors() -> Iterator[None]:
    """Raise the `UserError` of a worker or of one of several training processes, which comes as text of a traceback."""
    try:
        yield
    except Exception as error:
        _, marker, text = str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")
        if not marker:
            raise
        raise UserError(text.strip()) from error


@contextmanager
def name_disk_errors(setting: str, fix: str = "or give another") -> Iterator[None]:
    """Raise a `UserError` that names a setting, such as output=<path>, where what it stands for cannot be written."""
    try:
        yield
    except BrokenPipeError:  # whoever reads has enough
        raise
    except OSError as error:
        raise UserError(f"{setting} cannot be written ({error.strerror}); make room or rights, {fix}") from error


def check_choice(key: str, name: str, known: Iterable[str]) -> None:
    """Raise a `UserError` with the nearest of the known names, and all, if `name` is none of them."""
    if name not in (names := list(known)):
        raise UserError(f"{key}={name} does not exist{did_you_mean(str(name), names)} There are: {', '.join(names)}")


def counted(number: int, noun: str) -> str:
    """1 image, 2 images."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End a sentence on a wrong name: "; did you mean a or b?", or "." where no known name is near."""
    nearest = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(nearest)}?" if nearest else "."
