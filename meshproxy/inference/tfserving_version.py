"""TensorFlow Serving's versions as text: the decimal of an int64, without leading zeros and without `+` or `-0`.

`ModelRef.version` holds nothing else for its calls, so that equal versions are equal texts however they were spelled.
(tensorflow_serving/apis/model.proto, ModelSpec.version)
"""

from __future__ import annotations

import re

from meshproxy.config.values import shown
from meshproxy.refusal import Reason, Refusal

INT64_MAX = (1 << 63) - 1
INT64_MIN = -(1 << 63)

_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")


def write_number(version: str, least: int = INT64_MIN) -> int:
    """The number to write for a version that the proxy chose. The inverse is `str`.

    Args:
        least: 0 for a REST path, which has no negative versions.

    Raises:
        Refusal: NO_ROUTE: it is not the text of such a number.
    """
    if _NUMBER.fullmatch(version) and least <= (number := int(version)) <= INT64_MAX:
        return number
    raise Refusal(
        Reason.NO_ROUTE,
        f"The route asks for version {shown(version)}, but TensorFlow Serving numbers its versions: "
        "the ModelRoute needs a whole number.",
    )
