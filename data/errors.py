"""The error a user can act on."""


class DataError(ValueError):
    """Bad input, said in one message: what was found, where (file, record, object), what to do.

    Command lines print the message without a traceback and exit with 2.
    """
