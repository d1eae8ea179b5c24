"""Pages of a tenant's jobs, newest first; a page begins below the number the last one ended at.

So jobs that come or go between two pages neither repeat nor hide others. A token holds that number
and a digest of it and of what is listed, so that it is good for nothing else.
"""

import base64
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from diptych.digest import Digest
from diptych.errors import FieldViolation, InvalidRequest
from diptych.training.states import JobState

__all__ = ["DEFAULT_PAGE_SIZE", "MAX_PAGE_SIZE", "Listing", "page_limit"]

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What is listed: an empty collection and an empty prefix let everything through."""

    tenant: str
    states: Collection[JobState] = ()
    name_prefix: str = ""

    def token_after(self, number: int) -> str:
        """Return the token of the page that begins below ``number``."""
        listed = [self.tenant, sorted(set(self.states)), self.name_prefix, number]
        spelled = json.dumps([number, Digest.of_value(listed).hex[:16]])
        return base64.urlsafe_b64encode(spelled.encode()).decode()

    def number_in(self, token: str) -> int:
        """Return the number that ``token_after`` was given.

        Raises:
            InvalidRequest: It is no token of this listing.
        """
        try:
            spelled = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
            number = int(json.loads(spelled)[0])
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise _invalid("page_token", "is not one that this server gave") from error
        if token != self.token_after(number):
            raise _invalid("page_token", "was altered, or belongs to a listing with another filter")
        return number


def page_limit(page_size: int) -> int:
    """Return how many a page of ``page_size`` holds, 0 being the default.

    Raises:
        InvalidRequest: It is negative.
    """
    if page_size < 0:
        raise _invalid("page_size", f"{page_size} is negative")
    return min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=field, description=description)])
