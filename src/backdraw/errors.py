"""The errors that backdraw raises: every one is a `BackdrawError` and the built-in a user would expect."""


class BackdrawError(Exception):
    """Base of every error that backdraw raises on purpose."""


class InvalidValueError(BackdrawError, ValueError):
    """An option or an array has the right type but a value that cannot be used."""


class InvalidTypeError(BackdrawError, TypeError):
    """An argument has the wrong type, dtype or framework, or a distribution lacks what is needed of it."""


class NotOfferedError(InvalidTypeError, AttributeError):
    """A distribution was asked for a method that it does not have. An AttributeError too, so that `hasattr` is false."""


class GradientError(BackdrawError, RuntimeError):
    """A gradient was asked for that is not there: a broken tape, or a second derivative that does not exist."""


class BackendError(BackdrawError, ImportError):
    """A framework or package that is needed is not installed, or there is no backend of that name."""
