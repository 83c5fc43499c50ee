"""The address that the service listens on: checked before anything is loaded, and shown when it is ready."""

import errno
import ipaddress
import socket

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # a client on this machine reaches a server on all addresses there


class ListenError(ValueError):
    """The service cannot listen there. The message says why, and what to choose instead."""


def resolve_host(host: str) -> str:
    """The IP address of a host name, such as `localhost`; an IP address is returned unchanged. Raises ListenError."""
    if is_ip_address(host):
        return host
    try:
        # A server on 127.0.0.1 is reached by more clients than one on ::1, so IPv4 comes first.
        addresses = sorted(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM), key=lambda found: found[0])
    except (OSError, UnicodeError):
        raise ListenError(
            f"--host {host}: this is not an IP address, and no host has this name. Try --host 127.0.0.1"
        ) from None
    return str(addresses[0][4][0])


def is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check(host: str, port: int) -> None:
    """Binds a socket as the server will, and closes it. Raises ListenError if that is not possible.

    Args:
        host: an IP address.
        port: in [0, 65535]; 0 for any free port.
    """
    if not 0 <= port <= 65535:
        raise ListenError(f"--port {port}: a port is a number from 0 to 65535; 0 takes any free port.")
    if not is_ip_address(host):
        raise ListenError(f"--host {host}: BentoML needs an IP address here. Try --host 127.0.0.1")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen()  # two sockets can be bound to a port, but only one can listen
    except OSError as error:
        raise ListenError(_explain(error, host, port)) from None


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"--port {port}: another program already listens on port {port} of {host}."
            " Choose another port, or find the program with: ss -ltnp"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: this machine has no such address. Try 127.0.0.1, or 0.0.0.0 for all addresses of the machine."
    if error.errno == errno.EACCES:
        return f"--port {port}: this user may not listen on port {port}. Choose one from 1024 on."
    return f"--host {host} --port {port}: {error.strerror}."


def url(listener: socket.socket, scheme: str) -> str:
    """The URL under which this machine reaches a listening socket."""
    host, port = listener.getsockname()[:2]
    host = ANY_ADDRESS.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
