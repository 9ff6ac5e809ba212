"""The states of an HTTP/1.1 exchange (RFC 9112), the same for both roles.

One exchange at a time. Each side goes down its own column; the other column decides who may begin:

    the request side                          the response side
    ----------------                          -----------------
    HEAD  <------------- both DONE -------->  IDLE
     | head                                    | the head of the request has passed
     v                                         v
    BODY   data...                            HEAD   interim heads (1xx)...
     | last byte, last chunk                   | final head
     v                                         v
    DONE                                      BODY   data...
                                               | last byte, last chunk, close
                                               v
                                              DONE

`theirs` is the column we read, `ours` the one we write: a server reads the left one and writes the right one, a client
the reverse. A head without a body skips BODY. A response may be DONE before its request is.

    event                            theirs   ours              then
    violation, as server             BROKEN   may still answer  Rejected; closes after the response
    violation, as client             BROKEN   BROKEN            Failed
    EOF between messages             BROKEN   BROKEN            nothing
    EOF inside a message             BROKEN   client: BROKEN    Failed
    EOF, close-delimited body        DONE     unchanged         end of the body; closes
    EOF after their message          DONE     unchanged         nothing; closes after this exchange
    both DONE, `must_close`          BROKEN   BROKEN            nothing more is read
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """The state of one side of an exchange."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    DONE = "done"
    BROKEN = "broken"


# Looked up once: a member costs up to 0.4 us on Python 3.11, and a request passes a dozen.
IDLE, HEAD, BODY, DONE, BROKEN = State
