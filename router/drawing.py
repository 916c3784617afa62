"""Draws a share of the requests by their ids."""

import hashlib


def drawn(purpose: str, request_id: str, share: float) -> bool:
    """Returns whether a request is one of this share, from 0 to 1. Its id alone decides, so it goes the same way when
    it is sent again; those drawn for one purpose and for another are independent."""
    digest = hashlib.sha256(f"{purpose}\0{request_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
