"""Offers to switch protocols, which are ignored, as RFC 9110 (7.8) allows. No connection, no parsing.

Java's HttpClient, `curl --http2`, and others offer HTTP/2 with the first request of a connection. The parser stops at such an
offer: the bytes that follow are another protocol if it is accepted, but the request's body if it is not.
"""

from collections.abc import Iterable


def request_head(method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a request's head, without the offer. The parser accepts a header value only if it is a single line."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    lines += [b"%b: %b" % (name, value) for name, value in headers if name.lower() != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
