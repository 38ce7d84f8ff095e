"""Addresses without their secrets: the only way in which one is printed, logged, or put where others read it. Pure."""

from __future__ import annotations

import re
from typing import Any

#: The user and password of an address; a password may hold any character but a space and quotes.
_USER = re.compile(r"//[^\s'\"]*@")
#: A value of a query; those that are listed are no secrets.
_VALUE = re.compile(r"([?&;](?!(?:db|protocol|ssl_cert_reqs|ssl_ca_certs)=)[^=&;\s'\"]+=)[^&;\s'\"]+", re.IGNORECASE)
#: Outside of a query, as in what a library says of an address.
_NAMED = re.compile(r"((?:password|username)=)[^&\s'\"]+", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """The address, or the text with addresses in it, with *** in place of users, passwords and values of queries."""
    return _NAMED.sub(r"\1***", _VALUE.sub(r"\1***", _USER.sub("//***@", text)))


def has_secret(value: Any) -> bool:
    """Whether an address in the value could hold a secret; in a list or mapping, any of them."""
    if isinstance(value, dict):
        return any(map(has_secret, value.values()))
    if isinstance(value, list | tuple):
        return any(map(has_secret, value))
    return isinstance(value, str) and without_secrets(value) != value
