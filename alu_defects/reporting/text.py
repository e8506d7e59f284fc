"""Text for people."""


def printable(text: str) -> str:
    """Replace what is no character, such as the bytes of a file name that is not UTF-8, by �."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)
