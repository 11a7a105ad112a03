"""The one exception that is meant for the user's eyes."""


class UserError(ValueError):
    """Bad input: one line that says what is wrong and what to do. Command lines exit with 2."""
