"""Sessions that call an address itself: no proxy, no `.netrc` and no other setting of the environment counts."""

from __future__ import annotations

import requests


def direct_session() -> requests.Session:
    """A session whose requests, and the tokens in them, reach the address and nothing else.

    A proxy of the environment cannot know the loopback addresses of this machine, and a password of `.netrc` would
    replace a node's token.
    """
    session = requests.Session()
    session.trust_env = False
    return session
