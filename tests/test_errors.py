"""Errors that a user can fix, wherever they were raised."""

import pytest
from torch.utils.data import DataLoader

from alu_defects.errors import UserError, reraise_user_errors


class Broken:
    """A data set that cannot be read."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise UserError("x.png cannot be decoded")


def test_the_error_of_a_worker_is_that_of_the_user() -> None:
    with pytest.raises(UserError, match=r"^x\.png cannot be decoded$"), reraise_user_errors():
        next(iter(DataLoader(Broken(), num_workers=1)))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [UserError("as it is"), ValueError("as it is")])
def test_errors_of_this_process_stay_as_they_are_with_their_cause(error: Exception) -> None:
    cause = OSError("why")
    with pytest.raises(type(error), match=r"^as it is$") as caught, reraise_user_errors():
        raise error from cause
    assert caught.value is error
    assert caught.value.__cause__ is cause
