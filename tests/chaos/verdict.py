"""What a case may come to, other than that all is right."""


class Broken(Exception):
    """A law was broken; the message says which, and when."""


class NotPlayed(Exception):
    """The case did not come about; nothing is known of the laws."""
