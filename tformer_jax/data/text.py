"""Texts that are the same to a reader, however their characters are encoded: compared in one form."""

import os
import unicodedata


def canonical(text: str) -> str:
    """Returns the text in Unicode's normal form C: an accent and its letter are one character, where there is one.

    What people type is mostly in it; names of files on a Mac, and text taken out of a PDF, may not be. Two texts are
    compared, and classes and files named, in this form.
    """
    return unicodedata.normalize("NFC", text)


def file_name(name: str) -> str:
    """Returns the canonical name of a file; bytes in it that are no UTF-8 become replacement characters."""
    return canonical(os.fsencode(name).decode("utf-8", "replace"))
