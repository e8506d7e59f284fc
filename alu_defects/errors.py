"""The one error that a user can mend."""


class UserError(Exception):
    """Something outside the program is wrong: a file, a folder or a setting.

    The message names what, its value and the mend, in one or two lines; the command line prints it without a traceback.
    """
